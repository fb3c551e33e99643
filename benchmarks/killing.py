"""Run the programs of this repository, and kill them at chosen moments."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.peak_memory import ROOT

PATIENCE = 300.0  # seconds without an end


class Program:
    """A program that runs; left as a context, it is killed where it still goes on.

    What it says goes to a temporary file: a pipe that nobody reads would stop it when it is full.

    Parameters
    ----------
    command : list of str
        Program and arguments.
    """

    def __init__(self, command: list[str]):
        self.command, self.began = command, time.monotonic()
        self._output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=self._output, stderr=subprocess.STDOUT, env=environment
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *error) -> None:
        kill(self.process)
        self.process.wait()
        self._output.close()

    def wait(self, ready: Callable[[], bool] = lambda: False) -> int | None:
        """Wait until it ends or something is ready.

        Parameters
        ----------
        ready : callable
            Whether the time has come.

        Returns
        -------
        int or None
            Its exit code; None if it goes on.

        Raises
        ------
        TimeoutError
            If it has gone on for `PATIENCE` seconds and the time has not come.
        """
        while self.process.poll() is None and not ready():
            if time.monotonic() - self.began > PATIENCE:
                raise TimeoutError(f"{' '.join(self.command)} goes on after {PATIENCE:.0f} seconds: {self.says()}")
            time.sleep(0.001)
        return self.process.returncode

    def says(self, letters: int = 2000) -> str:
        """Give the end of its output and its errors so far, at most so many letters."""
        self._output.seek(0)
        return self._output.read()[-letters:]


def kill(process: subprocess.Popen) -> None:
    """Kill a program and all processes that it has started, and wait; a launcher's are in sessions of their own.

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
    while any(_goes_on(one) for one in family):
        time.sleep(0.001)


def _goes_on(process: psutil.Process) -> bool:
    """Whether a process has not ended; one that nobody has asked for its exit code has."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def outcome_of(command: list[str]) -> tuple[int, str]:
    """Run a program to its end.

    Parameters
    ----------
    command : list of str
        Program and arguments.

    Returns
    -------
    tuple of (int, str)
        Exit code, and what it says.

    Raises
    ------
    TimeoutError
        If it goes on for `PATIENCE` seconds; it is killed.
    """
    with Program(command) as program:
        exit_code = program.wait()
        return exit_code, program.says(1_000_000)


def run_to_the_end(command: list[str]) -> None:
    """Run a program, which must end well.

    Parameters
    ----------
    command : list of str
        Program and arguments.

    Raises
    ------
    RuntimeError
        If it fails.
    TimeoutError
        See `outcome_of`.
    """
    exit_code, output = outcome_of(command)
    if exit_code:
        raise RuntimeError(f"{' '.join(command)} failed: {output[-2000:]}")


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
    TimeoutError
        See `outcome_of`.
    """
    with Program(command) as program:
        worked = program.wait(works) is None
        work = time.monotonic() - program.began
        if program.wait() or not worked:
            raise RuntimeError(f"{' '.join(command)} failed, or did nothing: {program.says()}")
        return Timeline(work, time.monotonic() - program.began)


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
        If it goes on for `PATIENCE` seconds and the time does not come; it is killed.
    """
    with Program(command) as program:
        program.wait(ready)
        time.sleep(delay)
        exit_code = program.process.poll()
        if exit_code:
            raise RuntimeError(f"{' '.join(command)} failed: {program.says()}")
        return exit_code is None


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
