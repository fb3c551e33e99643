"""Measured tables, pairs, predictions and prepared folders."""

import numpy as np
import pandas as pd
import pytest

from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.sources import open_source
from modeling_macaron.evaluation.measurements import load_measurements, read_predictions
from modeling_macaron.evaluation.ridge import read_training_rows
from modeling_macaron.evaluation.score import score, score_baseline
from tests.evaluation.tables import load_tables, make_tables


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".csv", {}),
        (".tsv", {"sep": "\t"}),
        (".csv.gz", {}),
        (".csv", {"sep": ";", "decimal": ","}),
        (".xlsx", None),
    ],
)
def test_text_equals_parquet(tmp_path, suffix, options):
    frames = make_tables(tmp_path)
    for name, frame in frames.items():
        path = tmp_path / f"{name}{suffix}"
        frame.to_excel(path, index=False) if options is None else frame.to_csv(path, index=False, **options)
    expected, (predictions, found) = load_tables(tmp_path), load_tables(tmp_path, suffix=suffix)
    np.testing.assert_allclose(predictions, expected[0], rtol=1e-12)
    pd.testing.assert_frame_equal(found.rows, expected[1].rows, check_dtype=False)
    pd.testing.assert_frame_equal(found.pairs, expected[1].pairs, check_dtype=False)
    assert found.rows["random"].dtype == bool
    figures = score(predictions, found)["all"]
    assert figures["all"]["pearson_r"] > 0.8 and figures["SNVs"]["pearson_r"] > 0.8


def test_names_of_columns_and_row_ids(tmp_path):
    frames = make_tables(tmp_path)
    expected = score(*load_tables(tmp_path))["all"]
    table = frames["table"].rename(columns={"activity": "log2_ratio", "sequence": "oligo"})
    table.assign(sequence="NA", row_id=range(60)).to_csv(tmp_path / "table.csv", index=False)
    extra = pd.DataFrame({"row_id": [77, 88], "predicted_expression": [np.nan, 1.0]})
    predictions = frames["predictions"].rename(columns={"prediction": "predicted_expression"})
    predictions["row_id"] = 59 - predictions["row_id"] // 10
    pd.concat([extra, predictions]).to_parquet(tmp_path / "more.parquet")
    columns = {"sequence_column": "oligo", "value_column": "log2_ratio"}
    measurements = load_measurements(tmp_path / "table.csv", **columns)
    values, num_extra = read_predictions(tmp_path / "more.parquet", measurements.rows["row_id"])
    assert num_extra == 2
    assert score(values, measurements)["all"]["random"] == pytest.approx(expected["random"], abs=1e-12)
    assert measurements.rows["sequence"].tolist() == frames["table"]["sequence"].tolist()
    frames["table"].drop(columns="row_id").to_parquet(tmp_path / "table.parquet")
    assert load_measurements(tmp_path / "table.parquet").rows["row_id"].tolist() == list(range(60))


def test_split_keeps_its_rows_and_pairs_without_official_scores(tmp_path):
    frames = make_tables(tmp_path)
    predictions, part = load_tables(tmp_path, split="validation")
    assert part.rows["row_id"].tolist() == frames["table"]["row_id"][30:].tolist()
    ids = part.rows["row_id"].to_numpy()
    found = list(zip(ids[part.pairs["alt"]], ids[part.pairs["ref"]], strict=True))
    ends = frames["pairs"][["alt_row_id", "ref_row_id"]]
    assert found == list(ends[ends.isin(ids).all(axis=1)].itertuples(index=False, name=None))
    assert "not the challenge's test set" in score(predictions, part)["note"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("table", lambda t: t.drop(columns="activity"), "no column is known to be the value"),
        ("table", lambda t: pd.concat([t, t[:2]]), r"2 row_ids are missing or .*: \[590, 580\]"),
        ("table", lambda t: t.assign(activity=[np.nan, np.inf, *t["activity"][2:]]), "2 of 60 rows have no finite"),
        ("table", lambda t: t[:0], "no rows"),
        ("table", lambda t: t.assign(random="yes"), "`random` must hold True or False"),
        ("table", lambda t: t.assign(split="test"), "no row of split validation; it has test"),
        ("table", lambda t: t.drop(columns="split"), "no row of split validation; it has no splits"),
        ("pairs", lambda p: p.assign(alt_row_id=[5, *p["alt_row_id"][1:]]), r"1 of 40 pairs name rows .*\[\[5, "),
        ("pairs", lambda p: p.assign(kind="indel"), "unknown kind of pair indel"),
        ("pairs", lambda p: p.rename(columns={"ref_row_id": "ref"}), "no column ref_row_id"),
        ("predictions", lambda p: p[p["row_id"] > 0], r"1 of 30 rows have no prediction: row_id \[0\]"),
        ("predictions", lambda p: pd.concat([p, p[:1]]), "1 row_ids are missing or occur more than once"),
        ("predictions", lambda p: p.assign(prediction=[*p["prediction"][1:], None]), "1 of 30 rows have no finite"),
        ("predictions", lambda p: p.assign(prediction="high"), "30 of 30 rows have no finite number"),
        ("predictions", lambda p: p.rename(columns={"prediction": "value"}), "one column prediction"),
    ],
)
def test_rejected_tables(tmp_path, name, change, message):
    frames = make_tables(tmp_path)
    change(frames[name]).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=message):
        score(*load_tables(tmp_path, split="validation"))


@pytest.mark.parametrize("name", ["nothing.parquet", "broken.parquet", "broken.xlsx", "table.ods", "malformed.csv"])
def test_unreadable_files_are_named(tmp_path, name):
    if name != "nothing.parquet":
        (tmp_path / name).write_bytes(b"sequence,value\nACGT,1\nACGT,1,2\n")
    with pytest.raises((ValueError, FileNotFoundError), match=name):
        load_measurements(tmp_path / name)


@pytest.mark.parametrize("flanks", [("TGCATTTTTTTCACATC", "GGTTACGGCTGTT"), ("", "")])
def test_prepared_folder_equals_its_table(tmp_path, flanks):
    random = np.random.default_rng(0)
    cores = ["".join(random.choice(list("ACGT"), 50)) for _ in range(80)]
    frame = pd.DataFrame({"sequence": [flanks[0] + core + flanks[1] for core in cores], "value": np.arange(80.0)})
    frame.to_csv(tmp_path / "table.csv", index=False)
    prepare_dataset(open_source(tmp_path / "table.csv"), tmp_path / "data", validation_fraction=0.3)
    rows = load_measurements(tmp_path / "data").rows
    expected = dict(zip(frame["sequence"], frame["value"], strict=True))
    assert dict(zip(rows["sequence"], rows["activity"], strict=True)) == expected
    held_out = load_measurements(tmp_path / "data", split="validation")
    assert 0 < len(held_out.rows) < 80
    assert set(held_out.rows["sequence"]) == set(rows["sequence"][rows["split"] == "validation"])
    assert read_training_rows(tmp_path / "data").available == 80 - len(held_out.rows)
    assert score_baseline(tmp_path / "data", held_out)["scored_rows_in_training"] == 0
    assert score_baseline(tmp_path / "table.csv", held_out)["scored_rows_in_training"] == len(held_out.rows)
    (tmp_path / "data" / "report.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"report\.json is missing"):
        load_measurements(tmp_path / "data")


def test_clusters_of_a_prepared_folder(tmp_path):
    sequences = ["".join(bases) for bases in np.random.default_rng(0).choice(list("ACGT"), (30, 50))]
    frame = pd.DataFrame({"sequence": sequences, "value": np.arange(30.0), "family": [f"f{i % 7}" for i in range(30)]})
    frame.to_csv(tmp_path / "table.csv", index=False)
    source = open_source(tmp_path / "table.csv")
    prepare_dataset(source, tmp_path / "data", validation_fraction=0.3, cluster_column="family")
    rows = load_measurements(tmp_path / "data").rows
    found = dict(zip(rows["sequence"], rows["cluster"], strict=True))
    assert found == dict(zip(frame["sequence"], frame["family"], strict=True))
