"""Freed memory that a process keeps."""

import platform
import subprocess
import sys

from modeling_macaron.machine import keep_freed_memory


def test_freed_memory_is_kept_where_there_is_glibc():
    """In a process of its own, since the setting cannot be undone."""
    program = "from modeling_macaron.machine import keep_freed_memory; print(keep_freed_memory())"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str(platform.libc_ver()[0] == "glibc")


def test_settings_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_freed_memory()
