"""The lowest transformers that pyproject.toml allows; all other tests run on the newest."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest
import transformers
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
TESTS = [
    "tests/test_attention_macaron.py",
    "tests/test_configuration_macaron.py",
    "tests/test_layers_macaron.py",
    "tests/test_modeling_macaron.py",
    "tests/test_modeling_training.py",
    "tests/test_pipeline_macaron.py",
    "tests/test_hub_folder.py",
    "tests/training/test_averaging.py",
    "tests/training/test_trainer.py",
    "tests/tokenization",
]
LEFT_OUT = [  # starts processes, which would have the environment's transformers
    "--deselect=tests/training/test_averaging.py::test_two_processes_average_and_resume_as_one_does"
]


def lowest_transformers():
    """The version after `>=` in pyproject.toml."""
    return re.search(r'"transformers>=([\d.]+),<6"', (ROOT / "pyproject.toml").read_text(encoding="utf-8")).group(1)


def install(target, *requirements):
    """Install without dependencies, or give the reason why not."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    result = subprocess.run([*command, "--target", target, *requirements], capture_output=True, text=True, timeout=500)
    return "" if result.returncode == 0 else (result.stderr.strip() or "pip failed").splitlines()[-1]


def install_with_needed(target, version):
    """Install transformers and what it needs in another version than the environment has."""
    if reason := install(target, f"transformers=={version}"):
        return reason
    (found,) = (found for found in distributions(path=[target]) if found.name == "transformers")
    needed = [Requirement(text) for text in found.requires if "extra ==" not in text]
    unmet = [
        str(requirement)
        for requirement in needed
        if requirement.name in ("huggingface-hub", "tokenizers")
        and not requirement.specifier.contains(distribution(requirement.name).version)
    ]
    return install(target, *unmet) if unmet else ""


@pytest.fixture(scope="module")
def lowest(request, require_or_skip):
    """Environment variables with which Python imports the lowest transformers; the rest comes from this environment."""
    version = lowest_transformers()
    name = f"transformers-{version}-py{sys.version_info.major}{sys.version_info.minor}"
    folder = Path(request.config.cache.mkdir("lowest")) / name
    if not folder.is_dir():
        unfinished = tempfile.mkdtemp(dir=folder.parent)
        try:
            if reason := install_with_needed(unfinished, version):
                require_or_skip(f"transformers {version} cannot be installed: {reason}")
            os.rename(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "OMP_NUM_THREADS": "1"}, version


def test_this_environment_has_a_newer_one():
    assert Version(lowest_transformers()) < Version(transformers.__version__) < Version("6")


@pytest.mark.slow
def test_lowest_transformers_passes_the_tests_of_model_tokenizer_pipeline_and_trainer(lowest):
    environment, version = lowest
    program = "import sys, pytest, transformers; print(transformers.__version__); sys.exit(pytest.main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", program, "-q", "--tb=line", "-p", "no:cacheprovider", *TESTS, *LEFT_OUT],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert Version(result.stdout.splitlines()[0]) == Version(version)
    assert int(re.search(r"(\d+) passed", result.stdout).group(1)) > 200
