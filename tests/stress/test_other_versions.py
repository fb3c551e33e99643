"""Quick tests on the lowest and newest versions that `pyproject.toml` allows, in environments made by uv."""

import os
import shutil
import subprocess

import pytest

from tests.stress.programs import ROOT

RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
TOOLS = ("hypothesis>=6.100", "pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.5")
LEFT_OUT = [
    "tests/analysis/test_attribution.py",  # compares with captum and tangermeme, which users do not install
    "tests/benchmarks",  # the benchmarks run on the versions of constraints.txt
    "tests/notebooks",
    "tests/space",
    "tests/test_distribution.py",  # builds the wheel, which does not depend on the versions
]
LEFT_OUT_OF_LOWEST = ["tests/test_export.py"]  # the extra `export` asks for a newer torch


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("python", "end"), [
    ("3.10", "lowest"), ("3.10", "newest"), ("3.11", "newest"), ("3.12", "newest"), ("3.13", "newest"),
])  # fmt: skip
def test_quick_tests_pass(tmp_path, python, end):
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    place, extras = tmp_path / "environment", "train,analysis" + (",export" if end == "newest" else "")
    made = subprocess.run(
        [uv, "venv", "--no-python-downloads", "--python", python, place], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(made.stderr.strip())
    install = [uv, "pip", "install", "--quiet", "--python", place / "bin/python", "--resolution", RESOLUTIONS[end]]
    subprocess.run([*install, "--editable", f"{ROOT}[{extras}]", *TOOLS], check=True)
    own = ("PYTHONPATH", "VIRTUAL_ENV", "CI", "MACARON_SHARED")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    left_out = LEFT_OUT + (LEFT_OUT_OF_LOWEST if end == "lowest" else [])
    command = [place / "bin/python", "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-m", "not slow"]
    command += ["--numprocesses", "2", "--dist", "loadfile", "tests", *(f"--ignore={path}" for path in left_out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@pytest.mark.parametrize("path", LEFT_OUT + LEFT_OUT_OF_LOWEST)
def test_excluded_tests_exist(path):
    assert (ROOT / path).exists()
