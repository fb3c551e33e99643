"""Write a table in parts that outlive a crash and that several processes share, then join them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather

REQUEST = "request.json"


class TableParts:
    """Folder `OUTPUT.parts` with the finished parts of a table that is being written, each an Arrow file.

    As a context manager, to be entered once `begin` was called, it keeps the folder after a crash, an interruption or
    a full disk where any part is finished, and removes it after a `ValueError`: what was asked for, or the source, was
    wrong then.

    Parameters
    ----------
    output : str or Path
        The table that the parts will make.
    request : dict
        All that decides what the parts hold, as JSON: parts of another request are never joined to these.
    """

    def __init__(self, output: str | Path, request: dict) -> None:
        self.folder = parts_folder(output)
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
        if self.folder.exists() and not resume:
            shutil.rmtree(self.folder)
        if (self.folder / REQUEST).is_file():
            self._check_same_request()
            return
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
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> TableParts:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and (issubclass(kind, ValueError) or not any(self.folder.glob("*.arrow"))):
            self.remove()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.arrow"

    def _put(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file under a name of its own, then give it its name."""
        partial = self.folder / f".{name}.{os.getpid()}"
        write(partial)
        os.replace(partial, self.folder / name)


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
