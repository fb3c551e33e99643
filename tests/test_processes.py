"""How the processes of a command end."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, os, sys
os.environ["WORLD_SIZE"] = sys.argv[1]
from modeling_macaron.machine import run_command

class Destructor:
    def __del__(self):
        print("destructor")

kept = Destructor()
atexit.register(print, "exit function")

def main():
    print("main")
    {end}

run_command(main)
"""


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        ("return", 0, ""),
        ("sys.exit('error: no data')", 1, "error: no data"),
        ("sys.exit(3)", 3, ""),
        ("raise TypeError('a fault')", 1, "TypeError: a fault"),
    ],
)
def test_a_process_ends_with_its_status_and_message(processes, end, status, message):
    command = [sys.executable, "-c", PROGRAM.format(end=end), str(processes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr.strip().splitlines()[-1:]) == (status, [message] if message else [])
    lines = ["main", "exit function"] + (["destructor"] if processes == 1 else [])
    assert done.stdout.splitlines() == lines
