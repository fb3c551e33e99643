"""Fixtures that every test may use."""

import importlib
import os
from pathlib import Path

import pytest


def _missing(reason: str):
    """Skip where reference data are optional, fail where they must be there (continuous integration)."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI=true asks for every test")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the reference data, named by the environment variable MACARON_SHARED."""
    folder = os.environ.get("MACARON_SHARED")
    if not folder:
        _missing("MACARON_SHARED is not set: it names the folder with the reference data")
    path = Path(folder).resolve()
    if not path.is_dir():
        _missing(f"MACARON_SHARED names {folder}, which is no folder")
    return path


@pytest.fixture(scope="session")
def tensorflow():
    """TensorFlow, an optional extra that reads the original's checkpoints."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return importlib.import_module("tensorflow")
    except ImportError:
        _missing("TensorFlow is not installed (the extra `tensorflow`)")
