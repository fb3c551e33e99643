"""Names of machines, memory and exits of processes."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_macaron import machine

CPUINFO = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor @ 2.00GHz
flags\t\t: fpu amx_bf16
processor\t: 1
model name\t: Intel(R) Xeon(R) Processor @ 2.00GHz
"""
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


@pytest.mark.parametrize(("threads", "processes", "expected"), [(1, 1, "1 core"), (2, 1, "2 cores"), (2, 4, "8 cores")])
def test_cpu_is_named_with_its_used_cores(monkeypatch, threads, processes, expected):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: CPUINFO)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert machine.read_processor() == ("Intel Xeon Processor @ 2.00GHz", "fpu amx_bf16")
    assert machine.hardware(torch.device("cpu"), processes) == f"{expected} of Intel Xeon Processor @ 2.00GHz"


def test_gpus_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert machine.hardware(torch.device("cuda:0"), 4) == "4 x NVIDIA H200"


def test_machine_without_cpuinfo_has_a_name(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    name, flags = machine.read_processor()
    assert name and flags == ""


def test_freed_memory_is_kept_with_glibc():
    """Runs in its own process, since the setting cannot be undone."""
    program = "from modeling_macaron.machine import keep_freed_memory; print(keep_freed_memory())"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str(platform.libc_ver()[0] == "glibc")


def test_user_settings_are_kept(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not machine.keep_freed_memory()


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
