"""Checkpoints that do not fit on the disk: nothing half is left, and the message says what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def whole_or_nothing(folder: Path, num_bytes: int) -> Iterator[None]:
    """Remove a checkpoint that the disk had no room for.

    Parameters
    ----------
    folder : Path
        The checkpoint that the block writes.
    num_bytes : int
        About what it takes; with less room than this on the disk, an error that names no cause is taken for that.

    Raises
    ------
    OSError
        If the disk was full; the checkpoints before this one are as they were.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
        if not _is_full(folder, num_bytes, error):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(
            f"no space is left for {folder}, which was removed: make room (--save_total_limit keeps fewer checkpoints) "
            "and go on with --resume_from_checkpoint auto"
        ) from error


def _is_full(folder: Path, num_bytes: int, error: BaseException) -> bool:
    """Whether an error comes from a disk without room."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return not isinstance(error, OSError) and shutil.disk_usage(folder.parent).free < num_bytes
