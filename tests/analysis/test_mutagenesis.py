"""Mutagenesis in silico, against predictions of mutants that are written out."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.analysis.mutagenesis import (
    Mutagenesis,
    base_importance,
    saturation_mutagenesis,
    window_scan,
)
from modeling_macaron.analysis.mutagenesis_file import mutagenesis_file
from modeling_macaron.analysis.mutants import MutantStrands, Substitutions, WindowEdits, pad_centered
from modeling_macaron.analysis.predict import load_model, predict
from tokenization import KmerTokenizer

SCRIPT = Path(__file__).parents[2] / "scripts" / "mutagenesis.py"
# As given, and the variable part: flanks ACCA and GGT, lower case, U, ambiguity letters, N at the ends, one letter.
SEQUENCES = {
    "ACGTACGTAC": "ACGTACGTAC",
    "ACCATTTTGGT": "TTTT",
    "accaGattacagguggt": "GATTACAGGT",
    "ACGU": "ACGT",
    "NRYACGN": "NNNACGN",
    "G": "G",
    "GCTTTATATAAGGCGGGCAT": "GCTTTATATAAGGCGGGCAT",
}
# The substitution of T by A makes ends like the flanks.
LOOKS_FLANKED = "ACCTGGCGGT"


@pytest.fixture(scope="module")
def model(tiny_folder):
    """The tiny model in float64: what is equal is equal to many digits."""
    return load_model(tiny_folder, dtype="float64")[0]


@pytest.fixture(scope="module")
def as_it_stands():
    """Tokenizer that cuts nothing."""
    return KmerTokenizer(kmer_size=5, strand_length=20, trimming="never")


@pytest.fixture
def forwards(model):
    """Sizes of the batches that go through the model."""
    sizes = []
    hook = model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    yield sizes
    hook.remove()


@pytest.fixture(scope="module")
def slow_deltas(model, as_it_stands):
    """Deltas (length, 4) of a variable part, every mutant written out and predicted, the reference base too."""

    def deltas(sequence):
        mutants = [sequence[:i] + base + sequence[i + 1 :] for i in range(len(sequence)) for base in "ACGT"]
        values = predict(model, [sequence, *mutants], tokenizer=as_it_stands)
        return (values[1:] - values[0]).reshape(-1, 4)

    return deltas


def assert_same(got, expected):
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_deltas_are_differences_of_two_predictions(model, slow_deltas, batch_size):
    results = list(saturation_mutagenesis(model, list(SEQUENCES), batch_size=batch_size))
    assert [result.sequence for result in results] == list(SEQUENCES.values())
    references = predict(model, list(SEQUENCES))
    for result, reference in zip(results, references, strict=True):
        expected = slow_deltas(result.sequence)
        assert isinstance(result.reference, float)
        assert result.reference == pytest.approx(reference, rel=1e-12)
        assert_same(result.deltas, expected)
        is_reference = np.array(list(result.sequence))[:, None] == np.array(list("ACGT"))
        assert (result.deltas[is_reference] == 0).all()
        assert np.abs(result.deltas[~is_reference]).min() > 1e-6, "every substitution tells"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sequences=st.lists(st.text("ACGTN", min_size=1, max_size=20), min_size=1, max_size=4),
    batch_size=st.integers(1, 100),
)
def test_any_sequences_in_any_batches(model, as_it_stands, slow_deltas, sequences, batch_size):
    results = saturation_mutagenesis(model, sequences, tokenizer=as_it_stands, batch_size=batch_size)
    for sequence, result in zip(sequences, results, strict=True):
        assert result.sequence == sequence
        assert_same(result.deltas, slow_deltas(sequence))


def test_mutant_that_looks_flanked_is_not_trimmed(model, slow_deltas):
    (result,) = saturation_mutagenesis(model, [LOOKS_FLANKED])
    assert_same(result.deltas, slow_deltas(LOOKS_FLANKED))
    trimmed = predict(model, ["ACCAGGCGGT"])[0] - result.reference
    assert abs(result.deltas[3, 0] - trimmed) > 1e-3


def test_float32_and_merged_models_agree(tiny_folder, model):
    expected = next(saturation_mutagenesis(model, ["ACGTACGTAC"]))
    for options in ({}, {"merged": True}, {"dtype": "float64", "merged": True, "device": "cpu"}):
        got = next(saturation_mutagenesis(tiny_folder, ["ACGTACGTAC"], **options))
        np.testing.assert_allclose(got.deltas, expected.deltas, atol=2e-5)
        assert got.reference == pytest.approx(expected.reference, abs=2e-5)
        assert got.deltas.dtype == np.float64


def test_forwards_are_three_a_base_four_an_n_and_one(model, forwards):
    sequences = ["ACGTACGTAC", "ACCATTTTGGT", "NACGN"]  # 31 + 13 + (9 + 8 + 1)
    list(saturation_mutagenesis(model, sequences, batch_size=16))
    assert forwards == [16, 16, 16, 14], "mutants of several sequences share a batch"
    forwards.clear()
    list(saturation_mutagenesis(model, ["ACGTACGTAC"], batch_size=64))
    assert forwards == [31]


def test_results_come_before_all_is_computed(model, forwards):
    results = saturation_mutagenesis(model, ["ACGTACGTAC"] * 50, batch_size=31)
    assert forwards == []
    next(results)
    assert len(forwards) <= 2
    assert len(list(results)) == 49
    assert forwards == [31] * 50


def test_equal_lengths_can_be_stacked(model):
    stacked = np.stack([result.deltas for result in saturation_mutagenesis(model, ["ACGTA", "TTTTT", "accaGGGGGGGT"])])
    assert stacked.shape == (3, 5, 4)


def test_importance_is_minus_the_mean_of_three():
    deltas = np.array([[0, -3, -6, -3.0], [1, 2, 3, 4], [1, 1, 0, 4]])
    np.testing.assert_allclose(base_importance(Mutagenesis("ANG", 10.0, deltas)), [4, 0, -2])


SEQUENCE = "ACGTTGCAAC"


def test_window_of_n_by_hand(model):
    mutants = ["NNNTTGCAAC", "ACNNNGCAAC", "ACGTNNNAAC", "ACGTTGNNNC"]
    (scan,) = window_scan(model, [f"acca{SEQUENCE}ggt"], window=3, step=2, method="n", batch_size=3)
    assert (scan.sequence, scan.window) == (SEQUENCE, 3)
    assert scan.starts.tolist() == [0, 2, 4, 6]
    values = predict(model, [SEQUENCE, *mutants])
    assert scan.reference == pytest.approx(values[0], rel=1e-12)
    assert_same(scan.deltas, values[1:] - values[0])
    assert np.abs(scan.deltas).min() > 1e-3


@pytest.mark.parametrize(
    ("window", "mutants"),
    [(9, ["C", "A"]), (8, ["AC", "AC", "AC"]), (7, ["AAC", "AAC", "ACC", "ACG"])],
    ids=["to one letter", "of even length", "of odd length"],
)
def test_deletion_by_hand(model, window, mutants):
    if window == 8:
        mutants = [SEQUENCE[:start] + SEQUENCE[start + 8 :] for start in range(3)]
    (scan,) = window_scan(model, [SEQUENCE], window=window, method="delete")
    assert scan.starts.tolist() == list(range(len(mutants)))
    assert [len(mutant) for mutant in mutants] == [10 - window] * len(mutants)
    values = predict(model, [SEQUENCE, *mutants])
    assert_same(scan.deltas, values[1:] - values[0])


def test_deletion_of_one_letter(model):
    (scan,) = window_scan(model, ["ACGTC"], window=1, method="delete")
    values = predict(model, ["ACGTC", "CGTC", "AGTC", "ACTC", "ACGC", "ACGT"])
    assert_same(scan.deltas, values[1:] - values[0])


def test_shuffles_of_two_letters_by_hand(model):
    """A window of two letters is left or turned round: the mean is a share of that one delta."""
    num_shuffles = 16
    (scan,) = window_scan(model, [SEQUENCE], window=2, num_shuffles=num_shuffles, seed=1)
    swapped = [SEQUENCE[:i] + SEQUENCE[i + 1] + SEQUENCE[i] + SEQUENCE[i + 2 :] for i in range(9)]
    full = predict(model, swapped) - predict(model, [SEQUENCE])
    is_pair_of_one = np.array([SEQUENCE[i] == SEQUENCE[i + 1] for i in range(9)])
    assert is_pair_of_one.sum() == 2
    np.testing.assert_allclose(scan.deltas[is_pair_of_one], 0, atol=1e-11)
    counts = (scan.deltas / np.where(is_pair_of_one, 1, full))[~is_pair_of_one] * num_shuffles
    np.testing.assert_allclose(counts, counts.round(), atol=1e-6)
    assert (counts > 0).all() and (counts < num_shuffles).all()
    assert len(set(counts.round())) > 2, "each window has shuffles of its own"
    assert 0.3 < counts.mean() / num_shuffles < 0.7


def test_shuffles_belong_to_the_seed(model, forwards):
    options = {"window": 5, "num_shuffles": 3}
    sequences = [SEQUENCE, "TTGACCATGCATGGTA", SEQUENCE]
    expected = list(window_scan(model, sequences, seed=4, **options))
    assert sum(forwards) == 2 * (1 + 6 * 3) + (1 + 12 * 3)
    for batch_size in (1, 5):
        for got, result in zip(
            window_scan(model, sequences, seed=4, batch_size=batch_size, **options), expected, strict=True
        ):
            assert_same(got.deltas, result.deltas)
    (alone,) = window_scan(model, [sequences[1]], seed=4, **options)
    assert_same(alone.deltas, expected[1].deltas)
    assert_same(expected[2].deltas, expected[0].deltas)
    (other,) = window_scan(model, [SEQUENCE], seed=5, **options)
    assert np.abs(other.deltas - expected[0].deltas).max() > 1e-3
    sparse = list(window_scan(model, sequences, seed=4, step=3, **options))
    assert_same(sparse[1].deltas, expected[1].deltas[::3])


@given(
    letters=st.lists(st.integers(0, 4), min_size=4, max_size=20),
    window=st.integers(2, 4),
    step=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_a_shuffle_keeps_letters_and_leaves_the_rest(letters, window, step, seed):
    letters = np.array(letters, np.uint8)
    edits = WindowEdits(window, step, "shuffle", 3, seed)
    count = edits.count(letters)
    starts = [start for start in range(0, len(letters), step) if start + window <= len(letters)]
    assert count == 3 * len(starts)
    for index, mutant in enumerate(edits.make(letters, np.arange(count))):
        start = starts[index // 3]
        np.testing.assert_array_equal(np.delete(mutant, np.s_[start : start + window]),
                                      np.delete(letters, np.s_[start : start + window]))  # fmt: skip
        assert sorted(mutant[start : start + window]) == sorted(letters[start : start + window])


@given(data=st.data(), method=st.sampled_from(["substitution", "shuffle", "n", "delete"]))
def test_slices_of_mutants_are_parts_of_all(data, method):
    letters = data.draw(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=9), min_size=1, max_size=4))
    letters = [np.array(part, np.uint8) for part in letters]
    edits = Substitutions() if method == "substitution" else WindowEdits(3, 2, method, 2, 0)
    strands = MutantStrands(letters, edits, 12)
    size = len(strands)
    whole = np.concatenate([
        pad_centered(piece, 12) for part in letters
        for piece in (part[None], edits.make(part, np.arange(edits.count(part))))
    ])  # fmt: skip
    assert whole.shape == (size, 12)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size + 5))))
    np.testing.assert_array_equal(strands[start:stop], whole[start:stop])
    assert strands[start:stop].dtype == np.uint8


@given(length=st.integers(1, 20))
def test_padding_is_that_of_the_tokenizer(length):
    tokenizer = KmerTokenizer(kmer_size=5, strand_length=20)
    expected = tokenizer("G" * length)["input_ids"][:20]
    assert pad_centered(np.full((1, length), 2, np.uint8), 20).tolist() == [expected]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ("ACGT", "got one str"),
        (["ACGT", "ACX"], "sequence 1 of the batch: letter 'X' at position 3"),
        (["ACGT", ""], "sequence 1 of the batch: empty"),
        (["A" * 21], r"21 nt are more than the 20 that the model reads \(`strand_length`\)"),
        (["ACGT", "AC[MASK]GT"], "sequence 1 of the batch: a masked letter"),
        (["ACGT", b"ACGT"], "expected DNA as a str, got bytes"),
        ([None], "expected DNA as a str, got NoneType"),
    ],
)
def test_bad_sequences_are_named_at_once(model, sequences, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        saturation_mutagenesis(model, sequences)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        window_scan(model, sequences, window=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"window": 3, "step": 0}, "step must be at least 1"),
        ({"window": 3, "num_shuffles": 0}, "num_shuffles must be at least 1"),
        ({"window": 3, "method": "ablate"}, "must be one of shuffle, n, delete"),
        ({"window": 1}, "1 nt cannot be shuffled"),
        ({"window": 3, "seed": -1}, "seed must not be negative"),
        ({"window": 5}, "sequence 1 of the batch: 4 nt are too few for a window of 5"),
        ({"window": 4, "method": "delete"}, "sequence 1 of the batch: 4 nt are too few for a window of 4"),
        ({"window": 3, "batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_windows_that_are_none(model, options, message):
    with pytest.raises(ValueError, match=message):
        window_scan(model, ["ACGTACGT", "ACGT"], **options)


def test_window_as_long_as_the_sequence(model):
    (scan,) = window_scan(model, ["ACGT"], window=4, method="n")
    values = predict(model, ["NNNN", "ACGT"])
    assert_same(scan.deltas, values[:1] - values[1:])


def test_no_sequence_gives_no_result(model):
    assert list(saturation_mutagenesis(model, [])) == []
    assert list(window_scan(model, [], window=3)) == []
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        saturation_mutagenesis(model, [], batch_size=0)


ROWS = ["ACGTACGTAC", "AC!T", "", "accaGNggt", "A" * 21, "TTTT"]
REASONS = {
    2: "letter '!' at position 3 (counted from 1) is not DNA",
    3: "empty sequence",
    5: "21 nt are more than the 20 that the model reads",
}


def write_rows(path, sequences):
    frame = pd.DataFrame({"gene": [f"g{i}" for i in range(len(sequences))], "sequence": sequences})
    if path.name.endswith(".fa"):
        path.write_text("".join(f">p{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
    elif path.name.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if ".csv" in path.name else "\t", index=False)
    return path


def read_lines(path):
    if path.name.endswith(".parquet"):
        return pd.read_parquet(path)
    frame = pd.read_csv(path, sep="\t" if path.name.endswith(".tsv") else ",", keep_default_na=False, na_values=[""])
    return frame.assign(problem=frame["problem"].fillna(""))


@pytest.mark.parametrize("output", ["out.parquet", "out.csv", "out.tsv"])
@pytest.mark.parametrize("source", ["in.tsv", "in.csv.gz", "in.parquet", "in.fa"])
def test_file_has_a_line_for_each_mutant_in_order(model, tmp_path, source, output):
    path = write_rows(tmp_path / source, ROWS)
    result = mutagenesis_file(model, path, tmp_path / output, batch_size=2)
    assert result == (6, 30 + 1 + 1 + 7 + 1 + 12, 3, 0, ())
    lines = read_lines(tmp_path / output)
    if source.endswith(".fa"):
        assert lines.pop("name").tolist() == [f"p{row - 1}" for row in lines["row"]]
    assert list(lines) == ["row", "position", "ref", "alt", "predicted_reference", "delta", "problem"]
    assert lines["row"].tolist() == [1] * 30 + [2, 3] + [4] * 7 + [5] + [6] * 12
    for row, reason in REASONS.items():
        (line,) = lines[lines["row"] == row].to_dict("records")
        assert line.pop("problem") == reason
        assert line.pop("row") == row
        assert all(pd.isna(value) for value in line.values())
    fine = lines[~lines["row"].isin(REASONS)]
    assert (fine["problem"] == "").all()
    expected = [
        (row, position + 1, letter, base, result.reference, result.deltas[position, "ACGT".index(base)])
        for row, result in zip((1, 4, 6), saturation_mutagenesis(model, [ROWS[0], ROWS[3], ROWS[5]]), strict=True)
        for position, letter in enumerate(result.sequence) for base in "ACGT" if base != letter
    ]  # fmt: skip
    for name, values in zip(lines.columns[:-1], zip(*expected, strict=True), strict=True):
        if name in ("predicted_reference", "delta"):
            assert_same(fine[name].to_numpy(), values)
        else:
            assert fine[name].tolist() == list(values), name


def test_windows_of_a_file(model, tmp_path):
    path = write_rows(tmp_path / "in.tsv", ["ACGTACGTAC", "ACG", "", "TTGCA"])
    options = {"window": 4, "step": 3, "num_shuffles": 2, "seed": 7}
    assert mutagenesis_file(model, path, tmp_path / "out.parquet", **options) == (4, 3 + 1 + 1 + 1, 2, 0, ())
    lines = pd.read_parquet(tmp_path / "out.parquet")
    assert list(lines) == ["row", "start", "end", "letters", "predicted_reference", "delta", "problem"]
    assert lines["problem"].tolist() == [
        "",
        "",
        "",
        "3 nt are fewer than the 4 that a window needs",
        "empty sequence",
        "",
    ]
    fine = lines[lines["problem"] == ""]
    assert fine["start"].tolist() == [1, 4, 7, 1]
    assert fine["end"].tolist() == [4, 7, 10, 4]
    assert fine["letters"].tolist() == ["ACGT", "TACG", "GTAC", "TTGC"]
    scans = list(window_scan(model, ["ACGTACGTAC", "TTGCA"], **options))
    assert_same(fine["delta"].to_numpy(), np.concatenate([scan.deltas for scan in scans]))
    assert_same(fine["predicted_reference"].to_numpy(), [scans[0].reference] * 3 + [scans[1].reference])


def test_file_is_written_while_it_is_read(model, tmp_path, forwards):
    path = write_rows(tmp_path / "in.parquet", ["ACGTACGTAC"] * 20)
    mutagenesis_file(model, path, tmp_path / "out.parquet", batch_size=8)
    assert pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 3, "8 + 8 + 4 rows at a time"
    assert forwards == [8] * 31 * 2 + [8] * 15 + [4]


def test_error_of_the_model_leaves_nothing(tiny_folder, tmp_path):
    path = write_rows(tmp_path / "in.parquet", ["ACGT"] * 40)
    broken, calls = MacaronForExpressionPrediction.from_pretrained(tiny_folder), []

    def fail(*_):
        calls.append(1)
        if len(calls) == 60:
            raise RuntimeError("out of memory")

    broken.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        mutagenesis_file(broken, path, tmp_path / "out.parquet", batch_size=4, plots=tmp_path / "plots")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_figures_of_the_first_rows(model, tmp_path):
    path = write_rows(tmp_path / "in.tsv", ROWS)
    folder = tmp_path / "plots"
    mutagenesis_file(model, path, tmp_path / "out.tsv", plots=folder, num_plots=2, batch_size=1)
    assert sorted(file.name for file in folder.iterdir()) == [
        "row_1_heatmap.png", "row_1_logo.png", "row_4_heatmap.png", "row_4_logo.png"
    ]  # fmt: skip
    with pytest.raises(FileExistsError, match="holds figures already"):
        mutagenesis_file(model, path, tmp_path / "windows.tsv", plots=folder, window=2, method="n")
    with pytest.raises(FileExistsError, match="is no folder"):
        mutagenesis_file(model, path, tmp_path / "windows.tsv", plots=path)
    assert not (tmp_path / "windows.tsv").exists()
    (folder / "row_mine.png").write_text("not one of ours")
    options = {"window": 2, "method": "n", "overwrite": True, "num_plots": 1, "plot_format": "svg"}
    mutagenesis_file(model, path, tmp_path / "out.tsv", plots=folder, **options)
    assert sorted(file.name for file in folder.iterdir()) == ["row_1_windows.svg", "row_mine.png"], "none is stale"


def test_rows_and_figures_have_names_and_one_scale(model, tmp_path, monkeypatch):
    path = write_rows(tmp_path / "in.csv", ROWS)
    drawn = []
    monkeypatch.setattr(
        "modeling_macaron.analysis.sequence_plots.mutagenesis_heatmap",
        lambda result, **options: drawn.append((result, options)) or Figure(),
    )
    options = {"plots": tmp_path / "plots", "name_column": "gene", "same_scale": True}
    mutagenesis_file(model, path, tmp_path / "out.tsv", **options)
    lines = read_lines(tmp_path / "out.tsv")
    assert list(lines)[:3] == ["row", "name", "position"]
    assert (lines["name"] == [f"g{row - 1}" for row in lines["row"]]).all()
    assert [options["title"] for _, options in drawn] == ["g0", "g3", "g5"]
    largest = max(np.abs(result.deltas).max() for result, _ in drawn)
    assert [options["limit"] for _, options in drawn] == [largest] * 3
    with pytest.raises(ValueError, match="has no column 'absent' of names: its columns are 'gene', 'sequence'"):
        mutagenesis_file(model, path, tmp_path / "other.tsv", name_column="absent")
    assert not (tmp_path / "other.tsv").exists()


def test_strict_stops_at_the_first_bad_row_or_line(model, tmp_path):
    path = write_rows(tmp_path / "in.csv", ROWS)
    with pytest.raises(ValueError, match=r"in\.csv, line 3: letter '!' at position 3"):
        mutagenesis_file(model, path, tmp_path / "out.tsv", strict=True)
    path.write_text("gene,sequence\na,ACGT\nb,AC,GT\nc,\n")
    with pytest.raises(ValueError, match=r"in\.csv, line 3: 3 columns instead of 2"):
        mutagenesis_file(model, path, tmp_path / "out.tsv", strict=True)
    path.write_text("gene,sequence\na,ACGT\nb,\nc,AC,GT\n")
    with pytest.raises(ValueError, match=r"in\.csv, line 3: empty sequence"):
        mutagenesis_file(model, path, tmp_path / "out.tsv", strict=True)
    assert not (tmp_path / "out.tsv").exists()


def test_existing_output_is_replaced_only_when_asked(model, tmp_path):
    path = write_rows(tmp_path / "in.csv", ["ACGT"])
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        mutagenesis_file(model, path, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "mine"
    mutagenesis_file(model, path, tmp_path / "out.csv", overwrite=True)
    assert len(pd.read_csv(tmp_path / "out.csv")) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.tsv", "out.tsv"], "there is no file"),
        (["in.tsv", "out.xyz"], "unknown kind of output"),
        (["in.tsv", "in.tsv"], "exists already"),
        (["in.tsv", "out.tsv", "--window", "1"], "1 nt cannot be shuffled"),
        (["in.tsv", "out.tsv", "--batch_size", "0"], "batch_size must be at least 1"),
        (["header.tsv", "out.tsv"], "has no rows"),
        (["in.tsv", "out.tsv", "--plots", "plots", "--num_plots", "0"], "num_plots must be at least 1"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(tiny_folder, tmp_path, monkeypatch, arguments, message):
    write_rows(tmp_path / "in.tsv", ["ACGT"])
    (tmp_path / "header.tsv").write_text("sequence\texpression\n")
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT))["main"]([str(tiny_folder), *arguments])
    text = str(stop.value.code)  # what the interpreter prints before it exits with 1
    assert text.startswith("error: ") and message in text and "\n" not in text
    assert {path.name for path in tmp_path.iterdir()} == before


def test_script_reports_what_it_wrote(tiny_folder, tmp_path):
    write_rows(tmp_path / "in.csv", ["ACGT", "XXXX"])
    options = ["--window", "3", "--method", "delete", "--plots", "plots", "--num_plots", "1"]
    command = [sys.executable, str(SCRIPT), str(tiny_folder), "in.csv", "out.tsv", *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "3 lines for 2 rows written to out.tsv" in result.stdout
    assert "1 row could not be predicted" in result.stdout
    assert pd.read_csv(tmp_path / "out.tsv", sep="\t")["letters"].tolist()[:2] == ["ACG", "CGT"]
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["row_1_windows.png"]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("error: out.tsv exists already")
