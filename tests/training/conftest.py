"""A small prepared data set, and the options of runs that take seconds."""

import pytest

from modeling_macaron.training.data import prepare_dataset
from modeling_macaron.training.sources import open_source
from tokenization import KmerTokenizer

TINY = [
    *("--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--head_dim", "8"),
    *("--intermediate_size", "16", "--conv_kernel_size", "3", "--num_expression_positions", "4"),
    *("--report_to", "none", "--disable_tqdm", "true", "--per_device_eval_batch_size", "64"),
]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """400 simulated promoters, prepared with strands of 80 nt."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    table = open_source("simulate", num_sequences=400, seed=3)
    prepare_dataset(table, folder, tokenizer=KmerTokenizer(strand_length=80), validation_fraction=0.2)
    return folder
