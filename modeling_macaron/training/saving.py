"""What a run writes: nothing half where the disk is full, and nothing beside another run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from modeling_macaron.io.atomic import is_full_disk

_BLOCK = bytes(1 << 20)


@contextmanager
def whole_or_nothing(folder: Path, num_bytes: int) -> Iterator[None]:
    """Remove a checkpoint that the disk had no room for.

    Parameters
    ----------
    folder : Path
        The checkpoint that the block writes.
    num_bytes : int
        About what it takes; after an error that names no cause, as much is written for a trial.

    Raises
    ------
    OSError
        If the disk was full; the checkpoints before this one are as they were.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
        if not is_full_disk(error) and (isinstance(error, OSError) or not _lacks_room(folder.parent, num_bytes)):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(
            f"no space is left for {folder}, which was removed: make room (--save_total_limit keeps fewer checkpoints) "
            "and go on with --resume_from_checkpoint auto"
        ) from error


def _lacks_room(folder: Path, num_bytes: int) -> bool:
    """Whether `num_bytes` cannot be written into a folder: a quota or a limit leaves less than the disk tells."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(num_bytes // len(_BLOCK)):
                file.write(_BLOCK)
            file.write(_BLOCK[: num_bytes % len(_BLOCK)])
            file.flush()
    except OSError as error:
        return is_full_disk(error)
    return False


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder as long as this process lives, or the block lasts.

    Killing the launcher of several processes can leave them at work: a run that is resumed beside them would mix its
    checkpoints with theirs. File systems that cannot lock files are trusted to hold one run.

    Parameters
    ----------
    folder : Path
        Where a run writes; made where it is not there.

    Raises
    ------
    ValueError
        If another run is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"another run is writing into {folder} (processes of an interrupted one may still be at work): wait for "
            "its end or stop it, or choose another --output_dir"
        ) from None
    except NotImplementedError:
        pass
    try:
        yield
    finally:
        lock.release()
