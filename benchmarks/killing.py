"""Run the programs of this repository, and kill them at chosen moments."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.peak_memory import ROOT

PATIENCE = 300.0  # seconds without an end


def start(command: list[str]) -> subprocess.Popen:
    """Start a program.

    Parameters
    ----------
    command : list of str
        Program and arguments.

    Returns
    -------
    subprocess.Popen
        Its output and its errors come as text through one pipe.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def kill(process: subprocess.Popen) -> None:
    """Kill a program and all processes that it has started; a launcher's workers are in sessions of their own.

    Parameters
    ----------
    process : subprocess.Popen
        The program.
    """
    try:
        parent = psutil.Process(process.pid)
        parent.suspend()  # it starts no more of them
        family = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def run_to_the_end(command: list[str]) -> str:
    """Run a program, which must end well.

    Parameters
    ----------
    command : list of str
        Program and arguments.

    Returns
    -------
    str
        What it says.

    Raises
    ------
    RuntimeError
        If it fails.
    """
    process = start(command)
    output, _ = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {output[-2000:]}")
    return output


class Timeline(NamedTuple):
    """Seconds from the start of an undisturbed run."""

    work: float  # its first output, behind the imports
    end: float


def time_undisturbed(command: list[str], works: Callable[[], bool]) -> Timeline:
    """Run a program to its end and note when it began to work.

    Parameters
    ----------
    command : list of str
        Program and arguments.
    works : callable
        Whether something that it writes is there.

    Returns
    -------
    Timeline

    Raises
    ------
    RuntimeError
        If it fails, or was not seen to work.
    """
    process, began, work = start(command), time.monotonic(), 0.0
    while process.poll() is None:
        if not work and works():
            work = time.monotonic() - began
        time.sleep(0.002)
    end = time.monotonic() - began
    output = process.stdout.read()
    if process.returncode or not work:
        raise RuntimeError(f"{' '.join(command)} failed, or did nothing: {output[-2000:]}")
    return Timeline(work, end)


def kill_when(command: list[str], ready: Callable[[], bool], delay: float) -> bool:
    """Start a program, and kill it at a moment.

    Parameters
    ----------
    command : list of str
        Program and arguments.
    ready : callable
        Whether the time has come.
    delay : float
        Seconds from then on.

    Returns
    -------
    bool
        Whether it was killed; False if it had ended before.

    Raises
    ------
    RuntimeError
        If it fails by itself.
    TimeoutError
        If it goes on for `PATIENCE` seconds and the time does not come.
    """
    process = start(command)
    began = time.monotonic()
    while process.poll() is None and not ready():
        if time.monotonic() - began > PATIENCE:
            kill(process)
            raise TimeoutError(f"{' '.join(command)} did not come to where it was to be killed")
        time.sleep(0.001)
    time.sleep(delay)
    killed = process.poll() is None
    if killed:
        kill(process)
    output, _ = process.communicate()
    if not killed and process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {output[-2000:]}")
    return killed


def written_since(paths: Iterable[Path], moment: float) -> bool:
    """Whether one of some files, or of the files in some folders, was written after a moment.

    Parameters
    ----------
    paths : iterable of Path
        Files and folders; those that vanish meanwhile do not count.
    moment : float
        `time.time()`.

    Returns
    -------
    bool
    """
    for path in paths:
        with suppress(OSError):
            for file in [*path.iterdir()] if path.is_dir() else [path]:
                with suppress(OSError):
                    if file.stat().st_mtime > moment:
                        return True
    return False
