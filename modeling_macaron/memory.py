"""Memory settings for computing on a CPU."""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory, so that large tensors reuse pages instead of allocating new ones.

    This affects the whole process; call it at the start of a program.

    Returns
    -------
    bool
        False without glibc or if a `MALLOC_*` environment variable is set, which takes precedence.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
