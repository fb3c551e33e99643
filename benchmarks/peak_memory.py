"""Run a command line of this repository in a process of its own, and tell its time and peak memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).parents[1]
# The peak of that process alone: what `wait4` tells of a child counts the process that it was forked from.
_MEASURED = """
import importlib, re, resource, sys
importlib.import_module("scripts." + sys.argv[1]).main(sys.argv[2:])
try:
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1000)
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
"""


def run_script(script: str, *arguments: str) -> tuple[float, float]:
    """Run a command line.

    Parameters
    ----------
    script : str
        Name of a file in `scripts/`, without its suffix.
    *arguments : str
        What stands behind it.

    Returns
    -------
    seconds, peak_mb : float
        Python's start included; peak resident memory.

    Raises
    ------
    RuntimeError
        If it fails.
    """
    started = perf_counter()
    command = [sys.executable, "-c", _MEASURED, script, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"scripts/{script}.py failed: {result.stderr[-1000:]}")
    return perf_counter() - started, float(result.stdout.splitlines()[-1])
