"""What is published: a wheel and an sdist of this package alone, which work without this repository."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = """
import os, sys
from setuptools import build_meta
source, output = sys.argv[1:]
os.chdir(source)
print(build_meta.build_wheel(output))
print(build_meta.build_sdist(output))
"""
ALONE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
import modeling_macaron, tokenization, modeling_macaron.metrics.dream_promoter
from modeling_macaron.analysis.predict import predict
assert modeling_macaron.__file__.startswith(sys.argv[1]) and tokenization.__file__.startswith(sys.argv[1])
print(len(predict(sys.argv[2], ["ACGT", "TTGACC"])))
"""


def tracked_files():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


@pytest.fixture(scope="module")
def built(tmp_path_factory, require_or_skip):
    """Wheel and sdist of the files that git knows."""
    import setuptools

    if int(setuptools.__version__.split(".")[0]) < 77:
        require_or_skip("setuptools 77 or newer is not installed (the extra `test`)")
    names = tracked_files()
    if not names:
        require_or_skip("this is no clone of a git repository")
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(source), str(output)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,), (sdist,) = output.glob("*.whl"), output.glob("*.tar.gz")
    return wheel, sdist


def test_wheel_holds_the_package_and_nothing_else(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    expected = {
        name
        for name in tracked_files()
        if name.startswith(("modeling_macaron/", "tokenization/")) and name.endswith(".py")
    }
    assert expected <= names
    others = {name for name in names - expected if ".dist-info/" not in name}
    assert all(name.startswith("modeling_macaron/metrics/dream_promoter/") for name in others), others
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_sdist_holds_what_the_wheel_is_built_from(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "modeling_macaron/modeling_macaron.py"} <= names
    assert not [name for name in names if name.startswith((".", "checkpoints", "benchmarks", "notebooks", "docs"))]


def test_wheel_works_alone(built, tmp_path, tiny_folder):
    target = tmp_path / "installed"
    zipfile.ZipFile(built[0]).extractall(target)  # a wheel of pure Python is unpacked, no more
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(target), str(tiny_folder)], cwd=tmp_path, env=environment, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip() == "2", done.stderr[-2000:]
