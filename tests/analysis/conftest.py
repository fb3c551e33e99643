"""Fixtures for the tests of the analysis commands."""

import pytest

from modeling_macaron.analysis.constraints import Constraints, Rules
from modeling_macaron.predictor import Predictor
from tests.analysis.cases import explicit_predictions


@pytest.fixture(scope="module")
def predictor(tiny_folder):
    """The tiny model in float64, whose rounding errors are far below the tolerances."""
    return Predictor.from_pretrained(tiny_folder, dtype="float64")


@pytest.fixture(scope="module")
def explicit(tiny_folder, tiny_tokenizer):
    """Return a function that predicts one sequence with one forward pass."""
    return explicit_predictions(tiny_folder, tiny_tokenizer)


@pytest.fixture
def forwards(predictor):
    """Sizes of the batches of `predictor`'s model."""
    sizes = []
    hook = predictor.model.register_forward_hook(
        lambda _, args, kwargs, __: sizes.append(len(args[0] if args else kwargs["inputs_embeds"])), with_kwargs=True
    )
    yield sizes
    hook.remove()


@pytest.fixture(scope="module")
def rules(tiny_tokenizer):
    """Rules of the tiny construct, whose flanks are ACCA and GGT."""
    return lambda **fields: Rules(Constraints(**fields), tiny_tokenizer)
