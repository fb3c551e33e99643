"""Name the machine that a run was done on."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch


def read_processor() -> tuple[str, str]:
    """Find the name of this machine's processor.

    Returns
    -------
    name, flags : str
        Without trade marks; what it can do, as Linux lists it, elsewhere empty.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine(), ""
    found = {key: re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE) for key in ("model name", "flags")}
    name, flags = (match[1] if match else "" for match in found.values())
    return re.sub(r"\(R\)|\(TM\)", "", name).strip() or platform.machine(), flags


def hardware(device: torch.device, processes: int) -> str:
    """Name what a run used, for example `4 x NVIDIA H200` or `1 core of Intel Xeon Processor`.

    Parameters
    ----------
    device : torch.device
        Where each process computes.
    processes : int
        Number of processes.

    Returns
    -------
    str
    """
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    if device.type != "cpu":
        return f"{processes} x {device.type} ({platform.machine()})"
    threads = processes * torch.get_num_threads()
    return f"{threads} {'core' if threads == 1 else 'cores'} of {read_processor()[0]}"
