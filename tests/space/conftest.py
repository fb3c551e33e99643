"""Answers of the tiny model, which has no reference, and the reference of the checkpoint."""

import pytest

from modeling_macaron.reference import load_reference
from space.answers import Answers
from space.build import ROOT
from space.reading import Limits


@pytest.fixture(scope="module")
def answers(tiny_folder):
    return Answers(tiny_folder, limits=Limits(characters=2_000, promoters=10, file_bytes=20_000, file_rows=50))


@pytest.fixture(scope="session")
def reference():
    return load_reference(ROOT / "checkpoints/macaron-promoter-library")
