"""A small prepared data set."""

import pytest

from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.sources import open_source
from tokenization import KmerTokenizer


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """400 simulated promoters, prepared with strands of 80 nt."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    table = open_source("simulate", num_sequences=400, seed=3)
    prepare_dataset(table, folder, tokenizer=KmerTokenizer(strand_length=80), validation_fraction=0.2)
    return folder
