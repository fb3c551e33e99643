"""In silico mutagenesis against explicit predictions of mutants."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from modeling_macaron.analysis.figures import RowFigures
from modeling_macaron.analysis.files import FileOptions
from modeling_macaron.analysis.mutagenesis import (
    Mutagenesis,
    base_importance,
    mutagenesis_file,
    saturation_mutagenesis,
    window_scan,
)
from modeling_macaron.analysis.mutants import WindowEdits
from modeling_macaron.predictor import Predictor
from tests.analysis.cases import read, write
from tokenization import KmerTokenizer

# As given, and the variable part: flanks ACCA and GGT, lower case, U, ambiguous bases, N at the ends, one base. In the
# last, replacing T by A makes ends like the flanks.
SEQUENCES = {
    "ACGTACGTAC": "ACGTACGTAC", "ACCATTTTGGT": "TTTT", "accaGattacagguggt": "GATTACAGGT", "ACGU": "ACGT",
    "NRYACGN": "NNNACGN", "G": "G", "GCTTTATATAAGGCGGGCAT": "GCTTTATATAAGGCGGGCAT",
    "ACCTGGCGGT": "ACCTGGCGGT",
}  # fmt: skip
SEQUENCE = "ACGTTGCAAC"


@pytest.fixture(scope="module")
def untrimmed(predictor):
    """The predictor without trimming of flanks."""
    return replace(predictor, tokenizer=KmerTokenizer(kmer_size=5, strand_length=20, trimming="never"))


@pytest.fixture(scope="module")
def slow_deltas(untrimmed):
    """Deltas (length, 4) of a variable part from explicit mutants, including the base of the sequence."""

    def deltas(sequence):
        mutants = [sequence[:i] + base + sequence[i + 1 :] for i in range(len(sequence)) for base in "ACGT"]
        values = untrimmed.predict([sequence, *mutants])
        return (values[1:] - values[0]).reshape(-1, 4)

    return deltas


def assert_same(found, expected):
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_deltas_are_differences_of_two_predictions(predictor, slow_deltas):
    results = list(saturation_mutagenesis(replace(predictor, batch_size=7), list(SEQUENCES)))
    assert [result.sequence for result in results] == list(SEQUENCES.values())
    for result, reference in zip(results, predictor.predict(list(SEQUENCES)), strict=True):
        assert result.reference == pytest.approx(reference, rel=1e-12)
        assert_same(result.deltas, slow_deltas(result.sequence))
        is_reference = np.array(list(result.sequence))[:, None] == np.array(list("ACGT"))
        assert (result.deltas[is_reference] == 0).all()
        assert np.abs(result.deltas[~is_reference]).min() > 1e-6, "every substitution has an effect"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sequences=st.lists(
        st.text("ACGT", min_size=1, max_size=3)
        | st.text("ACGTN", min_size=4, max_size=20).filter(lambda text: set(text) != {"N"}),
        min_size=1,
        max_size=4,
    ),
    batch_size=st.integers(1, 100),
)
def test_any_sequences_in_any_batches(untrimmed, slow_deltas, sequences, batch_size):
    results = saturation_mutagenesis(replace(untrimmed, batch_size=batch_size), sequences)
    for sequence, result in zip(sequences, results, strict=True):
        assert result.sequence == sequence
        assert_same(result.deltas, slow_deltas(sequence))


def test_float32_and_merged_models_agree(tiny_folder, predictor):
    expected = next(saturation_mutagenesis(predictor, [SEQUENCE])).deltas
    for other in (tiny_folder, Predictor.from_pretrained(tiny_folder, merged=True)):
        np.testing.assert_allclose(next(saturation_mutagenesis(other, [SEQUENCE])).deltas, expected, atol=2e-5)


def test_batches_are_filled_across_sequences(predictor, forwards):
    sequences = ["ACGTACGTAC", "ACCATTTTGGT", "NACGN"]  # 31 + 13 + (9 + 8 + 1): three for a base, four for N
    list(saturation_mutagenesis(replace(predictor, batch_size=16), sequences))
    assert forwards == [16, 16, 16, 14]


def test_results_come_before_all_are_computed(predictor, forwards):
    results = saturation_mutagenesis(replace(predictor, batch_size=31), [SEQUENCE] * 50)
    assert forwards == []
    next(results)
    assert len(forwards) <= 2
    assert len(list(results)) == 49 and forwards == [31] * 50


def test_importance_is_minus_the_mean_of_three():
    deltas = np.array([[0, -3, -6, -3.0], [1, 2, 3, 4], [1, 1, 0, 4]])
    np.testing.assert_allclose(base_importance(Mutagenesis("ANG", 10.0, deltas)), [4, 0, -2])


@pytest.mark.parametrize(
    ("sequence", "options", "mutants"),
    [
        (SEQUENCE, {"window": 3, "step": 2, "method": "n"}, ["NNNTTGCAAC", "ACNNNGCAAC", "ACGTNNNAAC", "ACGTTGNNNC"]),
        (SEQUENCE, {"window": 9, "method": "delete"}, ["C", "A"]),
        (SEQUENCE, {"window": 8, "method": "delete"}, ["AC", "AC", "AC"]),
        (SEQUENCE, {"window": 7, "method": "delete"}, ["AAC", "AAC", "ACC", "ACG"]),
        ("ACGTC", {"window": 1, "method": "delete"}, ["CGTC", "AGTC", "ACTC", "ACGC", "ACGT"]),
    ],
)
def test_windows_by_hand(predictor, sequence, options, mutants):
    (scan,) = window_scan(replace(predictor, batch_size=3), [f"acca{sequence}ggt"], **options)
    assert (scan.sequence, scan.window) == (sequence, options["window"])
    assert scan.starts.tolist() == [options.get("step", 1) * i for i in range(len(mutants))]
    values = predictor.predict([sequence, *mutants])
    assert scan.reference == pytest.approx(values[0], rel=1e-12)
    assert_same(scan.deltas, values[1:] - values[0])


def test_shuffles_of_two_bases_by_hand(predictor):
    """A shuffle keeps or swaps two bases. The mean is a fraction of the delta of the swap."""
    num_shuffles = 16
    (scan,) = window_scan(predictor, [SEQUENCE], window=2, num_shuffles=num_shuffles, seed=1)
    swapped = [SEQUENCE[:i] + SEQUENCE[i + 1] + SEQUENCE[i] + SEQUENCE[i + 2 :] for i in range(9)]
    full = predictor.predict(swapped) - predictor.predict([SEQUENCE])
    has_equal_bases = np.array([SEQUENCE[i] == SEQUENCE[i + 1] for i in range(9)])
    np.testing.assert_allclose(scan.deltas[has_equal_bases], 0, atol=1e-11)
    counts = scan.deltas[~has_equal_bases] / full[~has_equal_bases] * num_shuffles
    np.testing.assert_allclose(counts, counts.round(), atol=1e-6)
    assert (counts > 0).all() and (counts < num_shuffles).all()
    assert len(set(counts.round())) > 2, "the windows have different shuffles"
    assert 0.3 < counts.mean() / num_shuffles < 0.7


def test_shuffles_depend_on_the_seed_only(predictor):
    options, sequences = {"window": 5, "num_shuffles": 3}, [SEQUENCE, "TTGACCATGCATGGTA"]
    expected = list(window_scan(predictor, sequences, seed=4, **options))
    (alone,) = window_scan(replace(predictor, batch_size=5), sequences[1:], seed=4, **options)
    assert_same(alone.deltas, expected[1].deltas)
    (sparse,) = window_scan(predictor, sequences[1:], seed=4, step=3, **options)
    assert_same(sparse.deltas, expected[1].deltas[::3])
    (other,) = window_scan(predictor, [SEQUENCE], seed=5, **options)
    assert np.abs(other.deltas - expected[0].deltas).max() > 1e-3


@given(
    ids=st.lists(st.integers(0, 4), min_size=4, max_size=20),
    window=st.integers(2, 4),
    step=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_a_shuffle_keeps_the_bases_of_its_window(ids, window, step, seed):
    ids, edits = np.array(ids, np.uint8), WindowEdits(window, step, "shuffle", 3, seed)
    starts = [start for start in range(0, len(ids), step) if start + window <= len(ids)]
    assert edits.count(ids) == 3 * len(starts)
    for index, mutant in enumerate(edits.make(ids, np.arange(edits.count(ids)))):
        inside = np.s_[starts[index // 3] : starts[index // 3] + window]
        np.testing.assert_array_equal(np.delete(mutant, inside), np.delete(ids, inside))
        assert sorted(mutant[inside]) == sorted(ids[inside])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"window": 3, "step": 0}, "step must be at least 1"),
        ({"window": 3, "num_shuffles": 0}, "num_shuffles must be at least 1"),
        ({"window": 3, "seed": -1}, "seed must be at least 0"),
        ({"window": 3, "method": "ablate"}, "must be one of shuffle, n, delete"),
        ({"window": 1}, "1 nt cannot be shuffled"),
        ({"window": 5}, "sequence 1 of the batch: 4 nt are fewer than the 5"),
        ({"window": 4, "method": "delete"}, "sequence 1 of the batch: 4 nt are fewer than the 5"),
    ],
)
def test_invalid_windows(predictor, options, message):
    with pytest.raises(ValueError, match=message):
        window_scan(predictor, ["ACGTACGT", "ACGT"], **options)


def test_sequences_are_checked_at_once(predictor):
    for function, options in ((saturation_mutagenesis, {}), (window_scan, {"window": 2})):
        with pytest.raises(ValueError, match="sequence 1 of the batch: letter 'X' at position 3"):
            function(predictor, ["ACGT", "ACX"], **options)
        assert list(function(predictor, [], **options)) == []


ROWS = ["ACGTACGTAC", "AC!T", "", "accaGNggt", "A" * 21, "TTTT"]
REASONS = {
    2: "letter '!' at position 3 (counted from 1) is not DNA", 3: "empty sequence",
    5: "21 nt are more than the 20 that the model reads",
}  # fmt: skip


def frame_of(sequences):
    return pd.DataFrame({"name": [f"g{i + 1}" for i in range(len(sequences))], "sequence": sequences})


@pytest.mark.parametrize(("source", "output"), [("in.tsv", "out.csv"), ("in.fa", "out.tsv"), ("in.csv", "out.parquet")])
def test_file_has_a_line_for_each_mutant_in_order(predictor, tmp_path, source, output):
    path = write(frame_of(ROWS), tmp_path / source)
    result = mutagenesis_file(replace(predictor, batch_size=2), path, tmp_path / output)
    assert result[:3] == (6, 30 + 1 + 1 + 7 + 1 + 12, 3)
    lines = read(tmp_path / output)
    if source.endswith(".fa"):
        assert lines.pop("name").tolist() == [f"g{row}" for row in lines["row"]]
    assert list(lines) == ["row", "position", "ref", "alt", "predicted_reference", "delta", "problem"]
    assert lines["row"].tolist() == [1] * 30 + [2, 3] + [4] * 7 + [5] + [6] * 12
    bad = lines[lines["problem"] != ""]
    assert dict(zip(bad["row"], bad["problem"], strict=True)) == REASONS and bad.iloc[:, 1:-1].isna().all(axis=None)
    fine = lines[lines["problem"] == ""]
    expected = [
        (row, position + 1, ref, alt, result.reference, result.deltas[position, "ACGT".index(alt)])
        for row, result in zip((1, 4, 6), saturation_mutagenesis(predictor, [ROWS[0], ROWS[3], ROWS[5]]), strict=True)
        for position, ref in enumerate(result.sequence) for alt in "ACGT" if alt != ref
    ]  # fmt: skip
    assert list(fine.iloc[:, :4].itertuples(index=False, name=None)) == [line[:4] for line in expected]
    np.testing.assert_allclose(fine[["predicted_reference", "delta"]], [line[4:] for line in expected], rtol=1e-9)


def test_windows_of_a_file(predictor, tmp_path):
    path = write(frame_of(["ACGTACGTAC", "ACG", "", "TTGCA"]), tmp_path / "in.tsv")
    options = {"window": 4, "step": 3, "num_shuffles": 2, "seed": 7}
    mutagenesis_file(predictor, path, tmp_path / "out.parquet", windows=WindowEdits(**options))
    lines = read(tmp_path / "out.parquet")
    assert list(lines) == ["row", "start", "end", "letters", "predicted_reference", "delta", "problem"]
    short = "3 nt are fewer than the 4 that a window needs"
    assert lines["problem"].tolist() == ["", "", "", short, "empty sequence", ""]
    fine = lines[lines["problem"] == ""]
    assert fine["start"].tolist() == [1, 4, 7, 1] and fine["end"].tolist() == [4, 7, 10, 4]
    assert fine["letters"].tolist() == ["ACGT", "TACG", "GTAC", "TTGC"]
    scans = list(window_scan(predictor, ["ACGTACGTAC", "TTGCA"], **options))
    assert_same(fine["delta"].to_numpy(), np.concatenate([scan.deltas for scan in scans]))
    assert_same(fine["predicted_reference"].to_numpy(), [scans[0].reference] * 3 + [scans[1].reference])


def test_figures_have_names_and_one_scale(predictor, tmp_path, monkeypatch):
    path, drawn = write(frame_of(ROWS), tmp_path / "in.csv"), []
    monkeypatch.setattr(
        "modeling_macaron.analysis.plots.mutagenesis_heatmap",
        lambda result, **options: drawn.append((result, options)) or Figure(),
    )
    figures, options = RowFigures(tmp_path / "plots", same_scale=True), FileOptions(name_column="name")
    mutagenesis_file(predictor, path, tmp_path / "out.tsv", figures=figures, options=options)
    assert read(tmp_path / "out.tsv")["name"].unique().tolist() == [f"g{row}" for row in range(1, 7)]
    assert [options["title"] for _, options in drawn] == ["g1", "g4", "g6"]
    for result, expected in zip(drawn, saturation_mutagenesis(predictor, [ROWS[0], ROWS[3], ROWS[5]]), strict=True):
        assert result[0].sequence == expected.sequence
        assert_same(result[0].deltas, expected.deltas)
    largest = max(np.abs(result.deltas).max() for result, _ in drawn)
    assert [options["limit"] for _, options in drawn] == [largest] * 3
