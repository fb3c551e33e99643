"""Write a file or a folder completely or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_free(path: str | Path, overwrite: bool, inputs: Iterable[object] = ()) -> None:
    """Raise if an output is a folder, exists without `overwrite`, or is an input (see `check_not_input`)."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder: name the file to write")
    check_not_input(path, inputs)
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another name or pass --overwrite")


def check_not_input(output: str | Path, inputs: Iterable[object]) -> None:
    """Raise if an existing output is, contains or lies within an input. Inputs that are not paths are ignored."""
    output = Path(output)
    for one in inputs:
        if isinstance(one, (str, Path)) and output.exists() and Path(one).exists():
            written, read = output.resolve(), Path(one).resolve()
            if output.samefile(one):
                raise FileExistsError(f"{output} exists already and is also an input: name another output")
            if written in read.parents or read in written.parents:
                raise FileExistsError(
                    f"{output} exists already, and replacing it would change the input {one}: name another output"
                )


def is_full_disk(error: BaseException) -> bool:
    """Whether an error reports a full disk, an exhausted quota or the limit of a file's size."""
    if isinstance(error, SafetensorError):  # its message contains the error number
        found = re.search(r"\b(?:os error|code:) (\d+)\b", str(error))
        return found is not None and int(found[1]) in _FULL
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def explain_full_disk(path: str | Path) -> Iterator[None]:
    """Raise an `OSError` that names the file if a disk is full. Other errors do not change."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not is_full_disk(error):
            raise
        full = OSError(f"no space is left for {path}: make room, or choose another disk")
        full.errno = getattr(error, "errno", errno.ENOSPC)
        raise full from error


@contextmanager
def new_file(path: str | Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a hidden file beside `path`, which is renamed to `path` if the block succeeds.

    Parent folders are created, and an existing file is replaced. Only one process may write a path at a time, unless
    `shared`.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}" if shared else f".{path.name}.partial")
    try:
        with explain_full_disk(path):
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(
    output_dir: str | Path, *, overwrite: bool = False, marker: str = "report.json", inputs: Iterable[object] = ()
) -> Iterator[Path]:
    """Yield an empty hidden folder beside `output_dir`, which is renamed to `output_dir` if the block succeeds.

    With `overwrite`, an existing folder is replaced if it contains the file `marker`. Leftovers of a killed process are
    removed. Only one process may write a folder at a time. Raises a `FileExistsError` if `output_dir` exists and may
    not be replaced, or if it is or contains one of the `inputs`.
    """
    output_dir = Path(output_dir).absolute()
    partial, replaced = (output_dir.with_name(f".{output_dir.name}.{kind}") for kind in ("partial", "replaced"))

    def tidy() -> None:
        if replaced.exists() and not output_dir.exists():  # interrupted between the two renames
            replaced.rename(output_dir)
        for left in (partial, replaced):
            shutil.rmtree(left, ignore_errors=True)

    tidy()
    check_not_input(output_dir, inputs)
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        if not overwrite:
            raise FileExistsError(f"{output_dir} exists already; choose another folder or pass --overwrite")
        if not (output_dir / marker).is_file():
            raise FileExistsError(
                f"{output_dir} was not written by this program (it holds no {marker}) and is not replaced"
            )
    partial.mkdir(parents=True)
    try:
        with explain_full_disk(output_dir):
            yield partial
        if output_dir.exists():
            output_dir.rename(replaced)
        partial.rename(output_dir)
    finally:
        tidy()
