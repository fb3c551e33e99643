"""What tests of several verbs share."""

import pytest

from modeling_macaron.analysis.constraints import Constraints, Rules
from modeling_macaron.loading import load_model


@pytest.fixture(scope="module")
def model(tiny_folder):
    """The tiny model in float64: what is equal is equal to many digits."""
    return load_model(tiny_folder, dtype="float64")[0]


@pytest.fixture
def forwards(model):
    """Sizes of the batches that go through the model."""
    sizes = []
    hook = model.register_forward_hook(
        lambda _, args, kwargs, __: sizes.append(len(args[0] if args else kwargs["inputs_embeds"])), with_kwargs=True
    )
    yield sizes
    hook.remove()


@pytest.fixture(scope="module")
def rules(tiny_tokenizer):
    """Rules of the tiny construct, whose flanks are ACCA and GGT."""
    return lambda **fields: Rules(Constraints(**fields), tiny_tokenizer)
