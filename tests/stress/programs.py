"""Run commands of this repository in their own processes, and kill them."""

import os
import random
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("STRESS_KILLS", "20"))
_PATIENCE_S = 600  # limit for a hang


@contextmanager
def started(command, log):
    """Start a command in the repository's root. Kills it if it still runs at the end."""
    with open(log, "w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            yield process
        finally:
            kill(process)


def wait(process, ready=lambda: False):
    """Wait until a process ends or a condition holds. Returns the exit code, or None if it still runs."""
    began = time.monotonic()
    while process.poll() is None and not ready():
        assert time.monotonic() - began < _PATIENCE_S, f"{process.args} hangs"
        time.sleep(0.001)
    return process.returncode


def kill(process):
    """Kill a process and its descendants with SIGKILL and wait for them."""
    family = []
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        parent.suspend()  # prevents new processes
        family = [*parent.children(recursive=True), parent]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    psutil.wait_procs(family)


def run(command, log):
    """Run a command. Returns its exit code and output."""
    with started(command, log) as process:
        code = wait(process)
    return code, Path(log).read_text(encoding="utf-8", errors="replace")


def run_well(command, log):
    """Run a command that must succeed. Returns its seconds."""
    began = time.monotonic()
    code, output = run(command, log)
    assert code == 0, output[-3000:]
    return time.monotonic() - began


def written(folder, patterns, since):
    """Whether a file or folder that matches a pattern was changed after a time."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            with suppress(OSError):
                if path.stat().st_mtime > since:
                    return True
    return False


def kill_again_and_again(command, folder, moments, finish, log):
    """Kill and restart a command `KILLS` times.

    `moments` are pairs, used in turn: patterns of files in `folder` to wait for (none: the start of the program), and
    the longest delay before the kill, in seconds. `finish` is called after each run. It compares a complete output and
    removes it.
    """
    rng, kills = random.Random(0), 0
    while kills < KILLS:
        patterns, longest = moments[kills % len(moments)]
        began = time.time()
        with started(command, log) as process:
            wait(process, lambda: not patterns or written(folder, patterns, began))  # noqa: B023
            time.sleep(rng.uniform(0, longest))
            code = process.poll()
        assert not code, Path(log).read_text(encoding="utf-8", errors="replace")[-3000:]
        kills += code is None
        finish()
