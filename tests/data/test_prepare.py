import json
import os
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.report import format_report
from modeling_macaron.data.rows import REASONS, hash_strands, parse_values
from modeling_macaron.data.sources import GROUND_TRUTH, open_source
from modeling_macaron.io.tables import open_table
from tokenization import MISSING_WORDS, KmerTokenizer

FLANKED = "TGCATTTTTTTCACATC{}GGTTACGGCTGTT"


def random_dna(number, length=80, seed=0):
    letters = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(seed).integers(0, 4, (number, length))]
    return [row.tobytes().decode() for row in letters]


def write_tsv(folder, rows, name="table.tsv"):
    path = folder / name
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


def all_rows(folder):
    """Rows of all splits as {row: (split, input_ids, label)}."""
    loaded = datasets.load_from_disk(str(folder))
    return {row["row"]: (split, row["input_ids"], row["labels"]) for split in loaded for row in loaded[split].to_list()}


def test_challenge_sample(shared, tmp_path):
    source = shared / "data/dream2022/train_sample.tsv"
    report = prepare_dataset(open_table(source), tmp_path / "out")
    lines = [line.split("\t") for line in source.read_text().split("\n")]
    lengths = Counter(str(len(sequence) - 30) for sequence, _ in lines)
    assert report["rows_read"] == 6370
    assert report["rows_dropped_for_length"] == sum(len(sequence) > 130 for sequence, _ in lines)
    assert report["rows_rejected"] == 0
    assert report["rows_trimmed"] == 6370
    assert report["length_histogram"] == lengths
    assert sum(report["value_histogram"]["counts"]) == report["rows_kept"]
    assert json.loads((tmp_path / "out/report.json").read_text()) == report

    tokenizer = KmerTokenizer()
    rows = all_rows(tmp_path / "out")
    assert len(rows) == report["rows_kept"]
    for number in [1, 2, 17, 6370, *range(3, 6000, 97)]:
        sequence, value = lines[number - 1]
        assert rows[number][1] == tokenizer(sequence)["input_ids"][:100]
        assert rows[number][2] == np.float32(value)
    train = np.array([row[2] for row in rows.values() if row[0] == "train"], np.float64)
    assert report["expression_mean"] == pytest.approx(train.mean(), rel=1e-12)
    assert report["expression_std"] == pytest.approx(train.std(), rel=1e-12)
    assert 0.035 < 1 - len(train) / len(rows) < 0.065


def test_layout_is_memory_mapped_with_exact_features(tmp_path):
    path = write_tsv(tmp_path, [(sequence, index) for index, sequence in enumerate(random_dna(300))])
    report = prepare_dataset(open_table(path), tmp_path / "out", tokenizer=KmerTokenizer(strand_length=90))
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    assert list(loaded) == ["train", "validation"] == list(report["splits"])
    for split, dataset in loaded.items():
        assert dataset.features == {
            "input_ids": datasets.List(datasets.Value("uint8"), length=90),
            "labels": datasets.Value("float32"),
            "row": datasets.Value("int64"),
            "cluster": datasets.Value("int64"),
        }
        assert len(dataset) == report["splits"][split]["rows"]
        assert [Path(file["filename"]).parent.name for file in dataset.cache_files] == [split]
    batch = loaded["train"].with_format("numpy", columns=["input_ids"], dtype=np.uint8)[[3, 1, 200]]
    assert batch["input_ids"].shape == (3, 90)
    assert report["tokenizer"]["strand_length"] == 90


def test_bytes_do_not_depend_on_batches(tmp_path):
    path = write_tsv(tmp_path, [(sequence, index) for index, sequence in enumerate(random_dna(400))])
    for name, batch_rows in (("a", 65_536), ("b", 7)):
        prepare_dataset(open_table(path, batch_rows=batch_rows), tmp_path / name, seed=3)
    assert (tmp_path / "a/report.json").read_bytes() == (tmp_path / "b/report.json").read_bytes()
    assert all_rows(tmp_path / "a") == all_rows(tmp_path / "b")
    other = prepare_dataset(open_table(path), tmp_path / "c", seed=4)
    assert other["splits"] != json.loads((tmp_path / "a/report.json").read_text())["splits"]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(
            st.one_of(
                st.text("ACGTN", min_size=1, max_size=14),
                st.sampled_from(["", "ACGX", "AC GT", "AC-", "acgu", "ACGTRYK", "AÀG", "N/A", "none", "-"]),
            ),
            st.sampled_from(
                ["1", "-2.5", "1e3", "+4", ".5", "", " ", "nan", "NA", "-", "-inf", "abc", "1,5", "1e39", "0x10", "1_0"]
            ),
            st.booleans(),
        ),
        min_size=1,
        max_size=40,
    ),
    batch_rows=st.integers(1, 9),
)
def test_rows_equal_those_of_a_slow_reader(tmp_path_factory, rows, batch_rows):
    def slow_reason(sequence, value):
        if not sequence:
            return "empty sequence"
        sequence = sequence.replace(" ", "")
        if sequence.upper() in MISSING_WORDS:
            return "missing sequence"
        if set(sequence.upper()) - set("ACGTUNRYSWKMBDHV"):
            return "letter that is not DNA"
        too_long = len(sequence) > 10
        if not too_long and not set(sequence) & set("ACGTacgu"):
            return "no A, C, G or T"
        reasons = {
            "": "missing value",
            **dict.fromkeys(("nan", "NA", "-"), "missing value"),
            **dict.fromkeys(("-inf", "1e39"), "value too large for float32"),
            **dict.fromkeys(("abc", "1,5", "0x10", "1_0"), "value is not a number"),
        }
        return reasons.get(value.strip(), "long" if too_long else "kept")

    folder = tmp_path_factory.mktemp("data")
    anchors = [(dna, float(index)) for index, dna in enumerate(random_dna(60, 8))]  # rows of both splits, with points
    lines = anchors + [
        ("A\tB\tC" if broken and not value.strip() else f"{s}\t{value}").split("\t") for s, value, broken in rows
    ]
    path = write_tsv(folder, lines)
    expected = {}
    for number, line in enumerate(lines, start=1):
        if any(map(str, line)):
            expected[number] = slow_reason(*map(str, line)) if len(line) == 2 else "wrong number of columns"
    table = open_table(path, sequence_column="0", value_column="1", batch_rows=batch_rows)
    report = prepare_dataset(
        table, folder / "out", tokenizer=KmerTokenizer(kmer_size=3, strand_length=10), validation_fraction=0.3
    )
    counts = Counter(expected.values())
    rejected = {number: reason for number, reason in expected.items() if reason not in ("kept", "long")}
    assert report["rows_read"] == len(expected)
    assert (report["rows_kept"], report["rows_dropped_for_length"]) == (counts["kept"], counts["long"])
    assert report["rejected"] == Counter(rejected.values())
    assert report["rows_rejected"] == len(rejected)
    assert [row["line"] for row in report["first_rejected"]] == list(rejected)[:10]
    stored = all_rows(folder / "out")
    assert sorted(stored) == [number for number, reason in expected.items() if reason == "kept"]
    for number, (_, _, label) in stored.items():
        assert label == np.float32(lines[number - 1][1])
    if rejected:
        number = next(iter(rejected))
        strict = open_table(path, sequence_column="0", value_column="1", batch_rows=batch_rows)
        with pytest.raises(ValueError, match=rf"line {number}: "):
            prepare_dataset(strict, folder / "strict", tokenizer=KmerTokenizer(3, 10), strict=True)
        assert not (folder / "strict").exists()


@given(
    values=st.lists(
        st.one_of(
            st.none(),
            st.floats(width=32).map(repr),
            st.floats().map(repr),
            st.integers().map(str),
            st.text("0123456789+-.eE nafi", max_size=6),
        ),
        max_size=20,
    )
)
def test_values_are_parsed_like_in_python(values):
    numbers, reasons = parse_values(pa.array(values, pa.string()), "here")
    for text, number, reason in zip(values, numbers, reasons, strict=True):
        text = (text or "").strip()
        try:
            exact = float(text)
        except ValueError:
            is_word = not text or text.upper() in MISSING_WORDS
            assert REASONS[reason] == ("missing value" if is_word else "value is not a number")
            continue
        if np.isnan(exact):
            assert REASONS[reason] == "missing value"
        elif abs(exact) > float(np.finfo(np.float32).max):
            assert REASONS[reason] == "value too large for float32"
        else:
            assert reason == 0 and number == np.float32(exact)


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.int64(), pa.decimal128(24, 2)])
def test_numbers_need_no_text(kind):
    array = pa.array([1, None, -3], pa.int64()).cast(kind)
    values, reasons = parse_values(pa.chunked_array([array.slice(1), array]), "here")
    assert values.tolist() == [0, -3, 1, 0, -3]
    assert [REASONS[reason] for reason in reasons] == ["missing value", "", "", "missing value", ""]
    with pytest.raises(ValueError, match="here holds bool; expected numbers"):
        parse_values(pa.array([True]), "here")


def test_hash_equals_python_integers():
    def mix(state):
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        return state ^ (state >> 31)

    for length, seed in ((4, 0), (16, 7), (37, 2**63)):
        ids = np.random.default_rng(length).integers(0, 5, (3, length), dtype=np.uint8)
        for row, got in zip(ids, hash_strands(ids, seed).tolist(), strict=True):
            state = mix((seed + 0x9E3779B97F4A7C15) % 2**64)
            for start in range(0, length, 8):
                state = mix(state ^ int.from_bytes(row[start : start + 8].tobytes(), "little"))
            assert got == state


def test_equal_sequences_stay_on_one_side_and_are_counted(tmp_path):
    unique = random_dna(200)
    order = np.random.default_rng(1).permutation(600)
    rows = [((unique * 3)[index], index) for index in order]
    rows[7] = (FLANKED.format(rows[7][0]), rows[7][1])  # the same variable part in its construct
    report = prepare_dataset(open_table(write_tsv(tmp_path, rows)), tmp_path / "out", validation_fraction=0.2)
    assert report["duplicates"] == {"rows_repeating_an_earlier_sequence": 400, "held_out_rows_seen_in_training": 0}
    sides = {}
    for split, ids, _ in all_rows(tmp_path / "out").values():
        sides.setdefault(tuple(ids), set()).add(split)
    assert len(sides) == 200
    assert all(len(splits) == 1 for splits in sides.values())


def test_split_column(tmp_path):
    names = ["train", "Validation", "val", "valid", "dev", "test", " TRAIN "]
    sequences = random_dna(len(names))
    rows = [(s, index, name) for index, (s, name) in enumerate(zip(sequences, names, strict=True))]
    rows.append((sequences[0], 9, "test"))
    path = write_tsv(tmp_path, [("sequence", "expression", "fold"), *rows])
    report = prepare_dataset(open_table(path, split_column="fold"), tmp_path / "out")
    splits = {number: split for number, (split, *_) in all_rows(tmp_path / "out").items()}
    expected = ["train", *["validation"] * 4, "test", "train", "test"]
    assert splits == dict(enumerate(expected, start=2))
    assert report["duplicates"]["held_out_rows_seen_in_training"] == 1
    assert "also in training rows" in format_report(report)
    assert report["validation_fraction"] is None
    assert report["expression_mean"] == 3.0 and report["expression_std"] == 3.0

    path = write_tsv(tmp_path, [("sequence", "expression", "fold"), *rows, (sequences[1], 3, "other")])
    with pytest.raises(ValueError, match=r"line 10: split 'other' in column 'fold' is not train"):
        prepare_dataset(open_table(path, split_column="fold"), tmp_path / "out2")
    path = write_tsv(
        tmp_path, [("sequence", "expression", "fold"), (sequences[0], 1, "train"), (sequences[1], 2, "test")]
    )
    with pytest.raises(ValueError, match=r"in the validation split; look at its column 'fold'"):
        prepare_dataset(open_table(path, split_column="fold"), tmp_path / "out2")


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([("ACGT" * 40, 1)], {}, r"no row is left of 1 \(1 longer than 100 nt\)"),
        ([("ACGTX", 1), ("ACGT", "nan")], {}, "no row is left of 2 .*first: line 1, letter 'X' at position 5"),
        ([("ACGT", 1)], {}, "none of 1 rows is in the train split"),
        ([(dna, i) for i, dna in enumerate(random_dna(9))], {"validation_fraction": 0.99}, "in the train split; pass"),
        ([(dna, 3) for dna in random_dna(99)], {}, "all training rows have the same value, 3.0"),
        ([("ACGT", 1)], {"validation_fraction": 0.0}, "validation_fraction must be between 0 and 1"),
        ([("ACGT", 1)], {"seed": -1}, "seed must be 0 or more"),
        ([("ACGT", 1)], {"split_by": "column"}, "split_by must be 'cluster' or 'row', got 'column'"),
        ([("ACGT", 1)], {"cluster_kmer": 33}, "cluster_kmer must be 1 to 32, got 33"),
        ([("ACGT", 1)], {"cluster_column": "x", "split_by": "row"}, "cluster_column is for split_by 'cluster'"),
        ([("ACGT", 1)], {"extra_columns": ["cluster"]}, "extra column 'cluster' has the name of a column"),
        ([("ACGT", 1)], {"extra_columns": ["name"]}, "there is no extra column 'name'"),
    ],
)
def test_empty_training_data_give_one_clear_error(tmp_path, rows, options, message):
    table = open_table(write_tsv(tmp_path, rows), sequence_column="0", value_column="1")
    with pytest.raises(ValueError, match=message) as error:
        prepare_dataset(table, tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no value column"):
        prepare_dataset(open_table(write_tsv(tmp_path, [("ACGTACGT",)])), tmp_path / "out")
    assert os.listdir(tmp_path) == ["table.tsv"]


def test_simulation_keeps_its_ground_truth(tmp_path):
    table = open_source("simulate", num_sequences=400, seed=5)
    report = prepare_dataset(table, tmp_path / "out")
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    truth = next(iter(open_source("simulate", num_sequences=400, seed=5)))
    assert report["rows_kept"] == report["rows_trimmed"] == 400
    assert report["source"]["num_sequences"] == 400
    for dataset in loaded.values():
        for row in dataset:
            expected = truth.table.slice(row["row"] - 1, 1).to_pylist()[0]
            assert {name: row[name] for name in GROUND_TRUTH} == {name: expected[name] for name in GROUND_TRUTH}
            assert row["labels"] == np.float32(expected["expression"])


def test_only_data_sets_are_replaced_with_overwrite(tmp_path):
    def seed():
        return json.loads((tmp_path / "out/report.json").read_text())["seed"]

    path = write_tsv(tmp_path, [(sequence, index) for index, sequence in enumerate(random_dna(200))])
    (tmp_path / "out").mkdir()  # an empty folder may be replaced
    prepare_dataset(open_table(path), tmp_path / "out", seed=1)
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        prepare_dataset(open_table(path), tmp_path / "out", seed=2)
    assert seed() == 1
    prepare_dataset(open_table(path), tmp_path / "out", seed=2, overwrite=True)
    assert seed() == 2
    before = all_rows(tmp_path / "out")
    path.write_text(path.read_text() + "ACGT\tnan\n")
    with pytest.raises(ValueError, match="line 201: missing value: 'nan'"):
        prepare_dataset(open_table(path), tmp_path / "out", overwrite=True, strict=True)
    assert all_rows(tmp_path / "out") == before
    (tmp_path / "home").mkdir()
    (tmp_path / "home/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="was not written by this program"):
        prepare_dataset(open_table(path), tmp_path / "home", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["home", "out", "table.tsv"]


def test_report_as_text(tmp_path):
    rows = [(FLANKED.format(sequence), index) for index, sequence in enumerate(random_dna(200))]
    rows += [("ACGTX", 1), ("ACGT", "nan"), ("ACGT", 1, 2), ("A" * 120, 5), ("NA", 1), ("NN", 1)]
    text = format_report(prepare_dataset(open_table(write_tsv(tmp_path, rows)), tmp_path / "out"))
    for part in (
        "rows read   206",
        "kept        200 = train 190 + validation 10",
        "dropped     1 longer than 100 nt",
        "rejected    5\n",
        "- line 201: letter 'X' at position 5 (counted from 1) is not DNA",
        "- line 202: missing value: 'nan'",
        "- line 203: 3 columns instead of 2: 'ACGT\\t1\\t2'",
        "- line 205: missing sequence 'NA'\n",
        "flanks cut  200 rows (trimming 'auto')",
        "length      80 to 120 nt, most often 80",
        "expression  0 to 199",
    ):
        assert part in text
