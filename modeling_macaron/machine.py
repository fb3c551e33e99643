"""The processes, the memory and the processor of this machine."""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def run_command(main: Callable[[], None]) -> None:
    """Run a command's main function. If it is one of several processes, exit without running destructors.

    A destructor that joins the threads of a process group can hang, and the interpreter can crash as it ends
    (pytorch#190489).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        main()
        return
    status = 1
    try:
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001  the process ends here, as the interpreter would end it
        traceback.print_exc()
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory, so that large tensors do not need new pages; call it at the start of a program.

    Returns False, and changes nothing, without glibc or if a `MALLOC_*` environment variable is set.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def read_processor() -> tuple[str, str]:
    """Name of the processor, without trade marks, and its flags as Linux lists them (elsewhere empty)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine(), ""
    found = {key: re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE) for key in ("model name", "flags")}
    name, flags = (match[1] if match else "" for match in found.values())
    return re.sub(r"\(R\)|\(TM\)", "", name).strip() or platform.machine(), flags


def hardware(device: torch.device, processes: int) -> str:
    """Name what a run used, for example `4 x NVIDIA H200` or `1 core of Intel Xeon Processor`."""
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    if device.type != "cpu":
        return f"{processes} x {device.type} ({platform.machine()})"
    threads = processes * torch.get_num_threads()
    return f"{threads} {'core' if threads == 1 else 'cores'} of {read_processor()[0]}"
