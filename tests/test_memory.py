"""Freed memory that a process keeps."""

import subprocess
import sys

import pytest

from modeling_macaron.memory import keep_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone gives memory back at once")
def test_large_tensors_touch_their_memory_once():
    program = """
import resource, torch
from modeling_macaron.memory import keep_freed_memory
assert keep_freed_memory()
faults = []
for _ in range(5):
    torch.ones(20_000_000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
assert faults[-1] - faults[1] < 1000, faults
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_settings_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_freed_memory()
