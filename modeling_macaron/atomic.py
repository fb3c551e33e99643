"""Write a file or a folder completely or not at all."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from safetensors import SafetensorError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_free(path: str | Path, overwrite: bool, inputs: Iterable[object] = ()) -> None:
    """Reject an output file that may not be written, before any work is done for it.

    Parameters
    ----------
    path : str or Path
        File to be written.
    overwrite : bool
        Whether a file may be replaced.
    inputs : iterable
        What is read, see `check_not_input`.

    Raises
    ------
    IsADirectoryError
        If it is a folder.
    FileExistsError
        If it exists and may not be replaced, or is an input.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder: name the file to write")
    check_not_input(path, inputs)
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another name or pass --overwrite")


def check_not_input(output: str | Path, inputs: Iterable[object]) -> None:
    """Reject an output path that resolves to an input.

    Parameters
    ----------
    output : str or Path
        File or folder to be written.
    inputs : iterable
        Files and folders that are read. Everything else is ignored: loaded models, names on the Hub, None.

    Raises
    ------
    FileExistsError
        If the output is an input, lies in a folder that is one, or holds one.
    """
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
    """Tell whether an error says that a disk, a quota or the size that a file may have is used up.

    Parameters
    ----------
    error : BaseException
        Of the operating system, or of safetensors, which gives the system's number in its message.

    Returns
    -------
    bool
    """
    if isinstance(error, SafetensorError):
        found = re.search(r"\b(?:os error|code:) (\d+)\b", str(error))
        return found is not None and int(found[1]) in _FULL
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def explain_full_disk(path: str | Path) -> Iterator[None]:
    """Tell which file a full disk has no room for, and what to do.

    Parameters
    ----------
    path : str or Path
        What is being written.

    Raises
    ------
    OSError
        Where that was the cause, in place of what the block raised.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not is_full_disk(error):
            raise
        full = OSError(f"no space is left for {path}: make room, or name a place on another disk")
        full.errno = getattr(error, "errno", errno.ENOSPC)
        raise full from error


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Give the name of a hidden file beside `path` to write to, which takes that name once the block has ended well.

    Parameters
    ----------
    path : str or Path
        The file to be written, in a folder that is made if need be; one that stands there is replaced.

    Yields
    ------
    Path
        The file to write to.

    Raises
    ------
    IsADirectoryError
        If `path` is a folder.
    """
    path = Path(path).absolute()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name the file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    partial = _sibling(path, "partial")
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
    """Give a hidden folder beside `output_dir` to write into, which takes that name once the block has ended well.

    After an error or Ctrl-C the hidden folder is removed; what a killed process left is removed by the next call.

    Parameters
    ----------
    output_dir : str or Path
        The folder to be written.
    overwrite : bool
        Replace an existing folder. Only one that holds `marker` is replaced.
    marker : str
        File by which a folder of the same kind is known.
    inputs : iterable
        What is read, see `check_not_input`.

    Yields
    ------
    Path
        The empty folder to write into.

    Raises
    ------
    FileExistsError
        If `output_dir` exists and may not be replaced, or is or holds an input.
    """
    output_dir = Path(output_dir).absolute()
    check_not_input(output_dir, inputs)
    _check_free(output_dir, overwrite, marker)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(output_dir)
    partial, replaced = (_sibling(output_dir, kind) for kind in ("partial", "replaced"))
    partial.mkdir()
    try:
        with explain_full_disk(output_dir):
            yield partial
        _check_free(output_dir, overwrite, marker)
        if output_dir.is_dir() and any(output_dir.iterdir()):
            output_dir.rename(replaced)
        elif output_dir.is_dir():
            output_dir.rmdir()
        try:
            partial.rename(output_dir)
        except OSError:
            if replaced.exists():
                replaced.rename(output_dir)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if output_dir.exists():
            shutil.rmtree(replaced, ignore_errors=True)


def _check_free(output_dir: Path, overwrite: bool, marker: str) -> None:
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{output_dir} exists already; choose another folder or pass --overwrite")
    if not (output_dir / marker).is_file():
        raise FileExistsError(
            f"{output_dir} was not written by this program (it holds no {marker}) and is not replaced"
        )


def _sibling(output_dir: Path, kind: str) -> Path:
    """Name hidden beside `output_dir` that tells which process of which machine it belongs to."""
    return output_dir.with_name(f".{output_dir.name}.{kind}-{platform.node()}-{os.getpid()}")


def _remove_stale(output_dir: Path) -> None:
    """Remove what processes of this machine that run no more have left behind."""
    pattern = re.compile(re.escape(f".{output_dir.name}.") + r"(partial|replaced)-(.*)-(\d+)")
    for path in output_dir.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match and match[2] == platform.node():
            process = int(match[3])
            if process == os.getpid() or not psutil.pid_exists(process):
                if match[1] == "replaced" and not output_dir.exists():
                    path.rename(output_dir)  # killed between the two renamings
                elif path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
