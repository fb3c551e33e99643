"""Checkpoints that do not fit on the disk: nothing half is left, and the message says what to do."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from modeling_macaron.atomic import is_full_disk

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
