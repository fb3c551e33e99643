"""Ridge regression on k-mer counts."""

from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_macaron.evaluation.measurements import load_measurements
from modeling_macaron.evaluation.ridge import (
    encode_constructs,
    kmer_counts,
    read_training_rows,
    shared_sequences,
)
from modeling_macaron.evaluation.score import score_baseline
from tests.evaluation.tables import load_tables, make_tables

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def slow_counts(sequence, size):
    """Count the k-mers of one sequence in alphabetical order, merging reverse complements."""
    words = {min(word, word.translate(COMPLEMENT)[::-1]): 0 for word in map("".join, product("ACGT", repeat=size))}
    for start in range(len(sequence) - size + 1):
        word = sequence[start : start + size]
        if "N" not in word:
            words[min(word, word.translate(COMPLEMENT)[::-1])] += 1
    return [words[word] for word in sorted(words)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("ACGTN", max_size=300).map("GG".__add__), min_size=1, max_size=5))
def test_kmer_counts_equal_a_slow_version(sequences):
    ids, problems = encode_constructs(pa.array(sequences))
    assert problems == [""] * len(sequences)
    counts = kmer_counts(ids).toarray()
    assert counts.shape == (len(sequences), 692)
    for sequence, row in zip(sequences, counts, strict=True):
        np.testing.assert_array_equal(row, np.concatenate([slow_counts(sequence, size) for size in range(1, 6)]))
    reverse = [sequence.translate(COMPLEMENT)[::-1] for sequence in sequences]
    np.testing.assert_array_equal(kmer_counts(encode_constructs(pa.array(reverse))[0]).toarray(), counts)


@pytest.mark.slow
def test_figures_of_the_challenge_sample(shared):
    folder = shared / "data" / "dream2022"
    measurements = load_measurements(folder / "measured_library.parquet", folder / "pairs.parquet")
    result = score_baseline(folder / "train_sample.tsv", measurements)
    assert (result["training_rows"], result["scored_rows_in_training"]) == (6370, 0)
    found = [result["all"][name][key] for name in ("random", "all") for key in ("pearson_r", "spearman_rho")]
    assert found == pytest.approx([0.8010, 0.8245, 0.7037, 0.7187], abs=1e-3)
    scores = [result["private"][name] for name in ("pearson_score", "spearman_score")]
    assert scores == pytest.approx([0.2792, 0.4911], abs=1e-3)


def test_training_rows_are_those_of_the_split_train(tmp_path):
    table = make_tables(tmp_path)["table"]
    rows = read_training_rows(tmp_path / "table.parquet")
    np.testing.assert_array_equal(rows.values, table["activity"][:30])
    some = read_training_rows(tmp_path / "table.parquet", max_rows=12)
    assert (some.available, len(some.values)) == (30, 12) and set(some.values) <= set(rows.values)
    held_out = score_baseline(tmp_path / "table.parquet", load_tables(tmp_path, split="validation")[1])
    assert held_out["scored_rows_in_training"] == 0
    assert held_out["all"]["all"]["pearson_r"] > 0.9
    whole = score_baseline(tmp_path / "table.parquet", load_tables(tmp_path)[1])
    assert "30 of the scored sequences are among the baseline's training rows" in whole["note"]


def test_sequences_in_both_of_two_sets():
    first, second = (encode_constructs(pa.array(one))[0] for one in (["ACGT" * 300, "ACGT", "A"], ["ACGT", "GGGG"]))
    assert (shared_sequences(first, second), shared_sequences(second, first), shared_sequences(first, first)) == (
        1,
        1,
        3,
    )


def test_unusable_training_rows_are_left_out(tmp_path):
    usable = [f"ACGT{base}{other},1" for base in "ACGT" for other in "ACG"]
    unusable = ["ACXT,1", ",1", "NA,1", "NNNN,1", "ACGT,inf", "ACGT,NA", "A" * 10_001 + ",1"]
    (tmp_path / "t.csv").write_text("\n".join(["sequence,value", *usable, *unusable]))
    assert read_training_rows(tmp_path / "t.csv").available == 12
    (tmp_path / "few.tsv").write_text("ACGTACGTAC\t1.5\nACGTACGTAG\t2.5\n")
    with pytest.raises(ValueError, match="2 usable training rows"):
        read_training_rows(tmp_path / "few.tsv")
