"""The demo's environment; the steps themselves are tests of their own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "scripts" / "demo.sh"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, f"{os.sysconf('SC_NPROCESSORS_ONLN')} PASSIVE 1"),
        ({"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}, "3 ACTIVE 1"),
    ],
)
def test_threads_that_wait_leave_their_cores_to_others(tmp_path, given, expected):
    for folder in ("scripts", "bin"):
        (tmp_path / folder).mkdir()
    shutil.copy(DEMO, tmp_path / "scripts")
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\necho "got $OMP_NUM_THREADS $OMP_WAIT_POLICY $HF_HUB_OFFLINE"\nexit 1\n')
    python.chmod(0o755)
    others = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    environment = {**others, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **given}
    done = subprocess.run(["bash", "scripts/demo.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"got {expected}" in done.stdout.splitlines()
