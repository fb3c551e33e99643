"""What answers on the tiny model; its reference is the checkpoint's, whose promoters are longer than the model's."""

import pytest

from space.answers import Answers
from space.reading import Limits


@pytest.fixture(scope="module")
def answers(tiny_folder):
    return Answers(tiny_folder, limits=Limits(characters=2_000, promoters=10, file_bytes=20_000, file_rows=50))
