"""Write a table in parts that survive a crash and can come from several processes, then join them."""

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

    `request` is JSON that determines the contents of the parts. Parts of different requests are never joined. Call
    `begin`, then enter the context. After an error, the context keeps the folder if any part is finished. A
    `ValueError` in a new run removes it, since the request or the source was wrong, unless a failing disk or network
    caused the error.
    """

    def __init__(self, output: str | Path, request: dict) -> None:
        self.output, self.folder = Path(output), parts_folder(output)
        self.request = json.loads(json.dumps(request))

    def begin(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder or, with `resume`, keep the finished parts of the same request."""
        check_parts(self.folder, resume=resume, overwrite=overwrite)
        if resume and (self.folder / REQUEST).is_file():
            self._check_same_request()
            return
        self.remove()  # parts without a request cannot be used
        self.folder.mkdir(parents=True, exist_ok=True)
        self._put(REQUEST, lambda path: path.write_text(json.dumps(self.request, indent=1)))

    def _check_same_request(self) -> None:
        before = json.loads((self.folder / REQUEST).read_text())
        changed = [name for name in {**before, **self.request} if before.get(name) != self.request.get(name)]
        if changed:
            raise ValueError(
                f"the interrupted run that left {self.folder} had other values of {', '.join(changed)}: use the "
                "same, or pass --overwrite without --resume to start again"
            )

    def is_finished(self, number: int) -> bool:
        """Whether part `number` is there."""
        return self._path(number).is_file()

    def write(self, number: int, table: pa.Table) -> None:
        """Write part `number` completely or not at all."""
        self._put(self._path(number).name, lambda path: pyarrow.feather.write_feather(table, str(path)))

    def read(self, number: int) -> pa.Table:
        """Read part `number`."""
        return pyarrow.feather.read_table(str(self._path(number)))

    def remove(self) -> None:
        """Remove the folder; it is renamed first, so that a killed process leaves nothing that looks unfinished."""
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
        """Write a file under a temporary name, then rename it."""
        partial = self.folder / f".{name}.{os.getpid()}"
        with explain_full_disk(self.folder):
            write(partial)
            os.replace(partial, self.folder / name)


def _is_failing_device(error: BaseException) -> bool:
    """Whether an error was caused by an error of the operating system."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno is not None


def parts_folder(output: str | Path) -> Path:
    """Folder for the parts of an output."""
    return Path(output).with_name(f"{Path(output).name}.parts")


def check_parts(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise if an interrupted run left parts, without `resume` or `overwrite`, or if the folder has other files."""
    if not folder.exists():
        return
    ours = folder.is_dir() and all(_is_ours(path) for path in folder.iterdir())
    if not ours:
        raise FileExistsError(f"{folder} is in the way: move it, since the output's unfinished parts need this name")
    if not (resume or overwrite):
        raise FileExistsError(
            f"an interrupted run has left finished parts in {folder}: pass --resume to continue, or --overwrite to "
            "start again"
        )


def _is_ours(path: Path) -> bool:
    return path.name.startswith(".") or path.name == REQUEST or path.suffix == ".arrow"
