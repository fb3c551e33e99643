"""The wheel and the sdist contain only this package and work without the repository."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STRAY = ("benchmarks", "checkpoints", "configs", "docs", "notebooks", "scripts", "space", "tests")
BUILD = """
import os, sys
from setuptools import build_meta
kind, source, output = sys.argv[1:]
os.chdir(source)
getattr(build_meta, "build_" + kind)(output)
"""
PREDICT = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
import modeling_macaron, tokenization, modeling_macaron.evaluation.dream_promoter
from modeling_macaron import Predictor
assert all(module.__file__.startswith(sys.prefix) for module in (modeling_macaron, tokenization)), modeling_macaron
print(len(Predictor.from_pretrained(sys.argv[1]).predict(["ACGT", "TTGACC"])))
"""


def tracked_files():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def environment_of(*paths):
    others = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**others, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory, require_or_skip):
    """The sdist of tracked files and the wheel built from it."""
    import setuptools

    if int(setuptools.__version__.split(".")[0]) < 77:
        require_or_skip("setuptools 77 or newer is not installed (the extra `test`)")
    names = tracked_files()
    if not names:
        require_or_skip("not a clone of a git repository")
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    run([sys.executable, "-c", BUILD, "sdist", str(source), str(output)])
    (sdist,) = output.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(output / "unpacked", filter="data")
    (unpacked,) = (output / "unpacked").iterdir()
    run([sys.executable, "-c", BUILD, "wheel", str(unpacked), str(output)])
    (wheel,) = output.glob("*.whl")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Python of an environment with only the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run([
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--no-deps",
        "--no-index", "--quiet", str(built[0]),
    ], env=environment_of())  # fmt: skip
    return python


def test_wheel_contains_only_the_package(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    expected = {
        name
        for name in tracked_files()
        if name.startswith(("modeling_macaron/", "tokenization/")) and name.endswith(".py")
    }
    assert expected <= names
    others = {name for name in names - expected if ".dist-info/" not in name}
    assert others == {"modeling_macaron/evaluation/dream_promoter/README.md"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_sdist_contains_the_sources_of_the_wheel(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "modeling_macaron/modeling_macaron.py"} <= names
    assert not [name for name in names if name.startswith((".", *STRAY))]


@pytest.mark.slow
def test_installed_wheel_predicts_from_another_folder(installed, tmp_path, tiny_folder):
    # It uses the dependencies of this environment, but Python finds its own package first.
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    printed = run([installed, "-c", PREDICT, tiny_folder], cwd=tmp_path, env=environment_of(*packages))
    assert printed.strip() == "2"
