"""Fixtures for all tests."""

import importlib
import os
from pathlib import Path

# Tiny models do not benefit from threads. Threads that wait for a busy core make them a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from tokenization import KmerTokenizer

TINY = {
    "strand_length": 20,
    "kmer_size": 5,
    "hidden_size": 16,
    "head_dim": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "conv_kernel_size": 5,
    "num_expression_positions": 3,
    "expression_mean": 11.25,
    "expression_std": 2.5,
}


def pytest_collection_modifyitems(items):
    """Run the files with slow tests first to balance the processes."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def _missing(reason: str):
    """Skip without reference data, but fail in continuous integration."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI=true needs every test")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the reference data, named by the environment variable MACARON_SHARED."""
    folder = os.environ.get("MACARON_SHARED")
    if not folder:
        _missing("MACARON_SHARED is not set: it names the folder with the reference data")
    path = Path(folder).resolve()
    if not path.is_dir():
        _missing(f"MACARON_SHARED is {folder}, which is not a folder")
    return path


@pytest.fixture(scope="session")
def tensorflow():
    """TensorFlow, an optional extra that reads the original's checkpoints."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return importlib.import_module("tensorflow")
    except ImportError:
        _missing("TensorFlow is not installed (the extra `tensorflow`)")


@pytest.fixture(scope="session")
def require_or_skip():
    """Skip with a reason, but fail where CI=true."""
    return _missing


@pytest.fixture(scope="session")
def make_config():
    """Make the config of a tiny model, with optional fields."""
    return lambda **fields: MacaronConfig(**{**TINY, **fields})


@pytest.fixture(scope="session")
def make_model(make_config):
    """Make a tiny model in evaluation mode with random weights, biases and gains."""

    def make(model_class=MacaronForExpressionPrediction, seed=0, **fields):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            model = model_class(make_config(**fields))
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Tokenizer of the tiny model, with nondefault settings."""
    return KmerTokenizer(kmer_size=5, strand_length=20, flank5="ACCA", flank3="GGT", trimming="auto")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, make_model, tiny_tokenizer):
    """Folder with a tiny model and its tokenizer, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("hub") / "tiny-macaron"
    make_model().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
