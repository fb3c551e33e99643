"""Memory of a process that computes on a CPU."""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory: otherwise each large tensor is given back and its pages are made anew.

    For the start of a program, since all of its memory is concerned. Settings by `MALLOC_*` environment variables stay.

    Returns
    -------
    bool
        Whether it was done: False without glibc, or where such a variable is set.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
