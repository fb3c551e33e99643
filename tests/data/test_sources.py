import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import HTTPError

from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.report import format_report
from modeling_macaron.data.rows import encode_rows
from modeling_macaron.data.sources import (
    DEFAULT_CONFIG,
    DEFAULT_DATASET,
    DEFAULT_REVISION,
    GROUND_TRUTH,
    open_source,
)
from tokenization import KmerTokenizer


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """Data set with the layout of the Hub: one Parquet file per split."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rng = np.random.default_rng(0)
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    for split, rows in (("train", 70), ("validation", 20), ("test", 10)):
        sequences = ["".join(rng.choice(list("ACGT"), 80)) for _ in range(rows)]
        table = pa.table({"sequence": sequences, "activity": rng.normal(size=rows), "row_id": range(rows)})
        pq.write_table(table, folder / f"data/{split}-00000-of-00001.parquet", row_group_size=16)
    return folder


def read_split(folder, split):
    return pq.read_table(folder / f"data/{split}-00000-of-00001.parquet")


def test_hub_splits_are_kept(hub_folder, tmp_path):
    table = open_source(str(hub_folder))
    assert table.columns[:2] == ("sequence", "activity")
    report = prepare_dataset(table, tmp_path / "out", extra_columns=["row_id"])
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    for split in ("train", "validation", "test"):
        source = read_split(hub_folder, split)
        assert loaded[split]["row"][:] == list(range(1, len(source) + 1))
        assert loaded[split]["row_id"][:] == source["row_id"].to_pylist()
        np.testing.assert_array_equal(loaded[split]["labels"][:], source["activity"].to_numpy().astype(np.float32))
    assert report["rows_read"] == 100
    assert report["source"]["splits"] == ["train", "validation", "test"]


def test_one_hub_split_is_split_anew(hub_folder, tmp_path):
    table = open_source(str(hub_folder), hub_split="train")
    assert table.columns.split is None
    report = prepare_dataset(table, tmp_path / "out", validation_fraction=0.3)
    assert list(report["splits"]) == ["train", "validation"]
    assert report["rows_kept"] == 70


def test_unknown_columns_and_hub_splits(hub_folder):
    with pytest.raises(ValueError, match=r"has no column 'tpm'.*'sequence', 'activity', 'row_id'"):
        open_source(str(hub_folder), value_column="tpm")
    message = "has the splits train, validation, test: name one of them with --hub_split"
    for options in ({"hub_split": "dev"}, {"split_column": "row_id"}):
        with pytest.raises(ValueError, match=message):
            open_source(str(hub_folder), **options)
    (hub_folder / "data/validation-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match="has the splits train, test: "):
        open_source(str(hub_folder))


def test_default_is_the_challenge_on_the_hub(monkeypatch):
    asked = []

    def load_dataset(name, config, revision, streaming):
        asked.append((name, config, revision, streaming))
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=rf"{DEFAULT_DATASET}: the Hub cannot be reached.*pass --source"):
        open_source()
    with pytest.raises(ValueError, match="cannot be reached"):
        open_source("owner/name")
    with pytest.raises(ValueError, match="cannot be reached"):
        open_source(revision="main", config="other")
    assert DEFAULT_REVISION == "5b18e5067fd20e589f698a4406ca6e4f2344d68f"
    assert asked == [
        (DEFAULT_DATASET, DEFAULT_CONFIG, DEFAULT_REVISION, True),
        ("owner/name", None, None, True),
        (DEFAULT_DATASET, "other", "main", True),
    ]


def test_revision_is_in_the_report(hub_folder, tmp_path, monkeypatch):
    usual = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, **options: usual(str(hub_folder), **options))
    table = open_source("owner/name", revision="abc", hub_split="train")
    assert prepare_dataset(table, tmp_path / "out")["source"]["revision"] == "abc"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (HTTPError("no route"), "cannot be reached"),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'a/b'\ndoesn't exist"),
            "cannot be read: Dataset 'a/b' doesn't",
        ),
        (ValueError("BuilderConfig 'x' not found"), "cannot be read: BuilderConfig"),
    ],
)
def test_hub_errors_are_one_line(monkeypatch, error, message):
    def load_dataset(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=message) as raised:
        open_source("a/b")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "options", "kind", "message"),
    [
        ("nonsense", {}, ValueError, "neither a file, nor 'simulate', nor a data set on the Hub"),
        ("./owner/name", {}, ValueError, "neither a file"),
        ("data/table.tsv.gz", {}, FileNotFoundError, "there is no file data/table.tsv.gz"),
        ("simulate", {"config": "x"}, ValueError, "--config, --revision and --hub_split belong"),
    ],
)
def test_sources_that_are_rejected(source, options, kind, message):
    with pytest.raises(kind, match=message):
        open_source(source, **options)


def test_simulation():
    table = open_source("simulate", num_sequences=10, seed=3)
    assert table.num_rows == 10 and table.extra_columns == GROUND_TRUTH
    assert [batch.table.num_rows for batch in table] == [10]
    assert next(iter(table)).table.equals(next(iter(table)).table)
    assert not next(iter(table)).table.equals(next(iter(open_source("simulate", num_sequences=10, seed=4))).table)


def test_file_needs_a_value(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("ACGTACGT\n")
    with pytest.raises(ValueError, match="no column is known to be the value"):
        open_source(str(path))


def test_replicates_are_averaged(tmp_path):
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGT"), 60)) for _ in range(40)]
    replicates = [["1.5", "2.5"], ["3", ""], ["", "4"], ["", " "], ["nan", "7"], ["1", "x"], ["inf", "1"]]
    replicates += [[str(i), str(i + 1)] for i in range(33)]
    lines = ["dna\trep1\trep2", *("\t".join([s, *values]) for s, values in zip(sequences, replicates, strict=True))]
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    table = open_source(str(tmp_path / "t.tsv"), value_column=["rep1", "rep2"])
    report = prepare_dataset(table, tmp_path / "out", validation_fraction=0.1)
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    values = {row["row"]: row["labels"] for split in loaded.values() for row in split.to_list()}
    expected = {2: 2.0, 3: 3.0, 4: 4.0, 6: 7.0} | {index + 9: index + 0.5 for index in range(33)}
    assert values == expected
    assert report["rows_rejected"] == 3
    assert [(row["line"], row["problem"]) for row in report["first_rejected"]] == [
        (5, "missing value: '', ' '"),
        (7, "value is not a number: '1', 'x'"),
        (8, "value too large for float32: 'inf', '1'"),
    ]
    assert report["source"]["replicates"] == ["rep2"] and ", mean with 'rep2'" in format_report(report)


def test_replicates_in_parquet_and_invalid_replicates(tmp_path):
    table = pa.table({"sequence": ["ACGT" * 5, "AACC" * 5], "a": [1, None], "b": [2.0, 4.0]})
    pq.write_table(table, tmp_path / "t.parquet")
    opened = open_source(str(tmp_path / "t.parquet"), value_column=("a", "b"))
    rows = encode_rows(next(iter(opened)).table, opened, KmerTokenizer(strand_length=20))
    assert rows.labels.tolist() == [1.5, 4.0] and not rows.reasons.any()
    for columns, message in (
        (["a", "c"], "has no column 'c'"),
        (["a", "sequence"], "one column cannot have two roles"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(str(tmp_path / "t.parquet"), sequence_column="sequence", value_column=columns)
    (tmp_path / "t.fa").write_text(">a x=1 y=2\nACGT\n")
    with pytest.raises(ValueError, match="a FASTA header gives one value"):
        open_source(str(tmp_path / "t.fa"), value_column=["x", "y"])
