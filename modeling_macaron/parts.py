"""Write a table in parts that outlive a crash and that several processes share, then join them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather

from modeling_macaron.atomic import explain_full_disk

REQUEST = "request.json"


class TableParts:
    """Folder `OUTPUT.parts` with the finished parts of a table that is being written, each an Arrow file.

    As a context manager, to be entered once `begin` was called, it keeps the folder after an error where any part is
    finished, but for a `ValueError` in a run that began anew: what was asked for, or the source, was wrong then. (An
    error of a disk or a network behind it does not count as such.)

    Parameters
    ----------
    output : str or Path
        The table that the parts will make.
    request : dict
        All that decides what the parts hold, as JSON: parts of another request are never joined to these.
    """

    def __init__(self, output: str | Path, request: dict) -> None:
        self.output, self.folder = Path(output), parts_folder(output)
        self.request = json.loads(json.dumps(request))

    def begin(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder, or take over what an interrupted run has left there.

        Parameters
        ----------
        resume : bool
            Go on with finished parts.
        overwrite : bool
            Without `resume`, remove them.

        Raises
        ------
        FileExistsError
            If there are parts, and neither is asked for.
        ValueError
            If the parts are of another request.
        """
        check_parts(self.folder, resume=resume, overwrite=overwrite)
        if resume and (self.folder / REQUEST).is_file():
            self._check_same_request()
            return
        self.remove()  # without their request, nothing is known of parts
        self.folder.mkdir(parents=True, exist_ok=True)
        self._put(REQUEST, lambda path: path.write_text(json.dumps(self.request, indent=1)))

    def _check_same_request(self) -> None:
        before = json.loads((self.folder / REQUEST).read_text())
        changed = [name for name in {**before, **self.request} if before.get(name) != self.request.get(name)]
        if changed:
            raise ValueError(
                f"the interrupted run that left {self.folder} had other values of {', '.join(changed)}: repeat it as "
                "it was, or pass --overwrite without --resume to begin anew"
            )

    def is_finished(self, number: int) -> bool:
        """Whether part `number` is there."""
        return self._path(number).is_file()

    def write(self, number: int, table: pa.Table) -> None:
        """Write part `number`; it is there completely or not at all."""
        self._put(self._path(number).name, lambda path: pyarrow.feather.write_feather(table, str(path)))

    def read(self, number: int) -> pa.Table:
        """Read part `number`."""
        return pyarrow.feather.read_table(str(self._path(number)))

    def remove(self) -> None:
        """Remove the folder; a process that is killed meanwhile leaves none that looks unfinished."""
        doomed = self.folder.with_name(f".{self.folder.name}.{os.getpid()}")
        try:
            self.folder.rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)

    def __enter__(self) -> TableParts:
        self._had_parts = self._has_parts()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        is_wrong = isinstance(error, ValueError) and not self._had_parts and not _is_failing_device(error)
        if kind is not None and (is_wrong or not self._has_parts()):
            self.remove()

    def _has_parts(self) -> bool:
        return any(self.folder.glob("*.arrow"))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.arrow"

    def _put(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file under a name of its own, then give it its name."""
        partial = self.folder / f".{name}.{os.getpid()}"
        with explain_full_disk(self.folder):
            write(partial)
            os.replace(partial, self.folder / name)


def _is_failing_device(error: BaseException) -> bool:
    """Whether an operating system's error stands behind an error."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno is not None


def parts_folder(output: str | Path) -> Path:
    """Folder for the parts of an output."""
    return Path(output).with_name(f"{Path(output).name}.parts")


def check_parts(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to begin where an interrupted run has left parts, unless it is told what to do with them.

    Parameters
    ----------
    folder : Path
        See `parts_folder`.
    resume, overwrite : bool
        Go on with them, or remove them.

    Raises
    ------
    FileExistsError
        If the folder is there and neither is asked for, or if it is none of ours.
    """
    if not folder.exists():
        return
    ours = folder.is_dir() and all(_is_ours(path) for path in folder.iterdir())
    if not ours:
        raise FileExistsError(f"{folder} is in the way: an output's unfinished parts would stand there")
    if not (resume or overwrite):
        raise FileExistsError(
            f"an interrupted run has left finished parts in {folder}: pass --resume to go on with them, or --overwrite "
            "to begin anew"
        )


def _is_ours(path: Path) -> bool:
    return path.name.startswith(".") or path.name == REQUEST or path.suffix == ".arrow"
