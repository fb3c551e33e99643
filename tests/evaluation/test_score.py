"""Reading measurements and predictions, the baseline, tables, plots."""

import json
import math
from itertools import pairwise, product

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from modeling_macaron.analysis.baselines import (
    encode_constructs,
    fit_ridge,
    kmer_counts,
    read_training_rows,
    shared_sequences,
)
from modeling_macaron.analysis.evaluation import (
    evaluate_files,
    format_table,
    load_metric,
    plot_categories,
    score,
    score_baseline,
    write_result,
)
from modeling_macaron.analysis.intervals import cluster_codes
from modeling_macaron.analysis.measurements import load_measurements, read_predictions
from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.sources import open_source
from modeling_macaron.plots import learning_curves, point_density, save_figure, scatter_with_density

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def make_table(folder, rows=60, seed=0):
    """Write a table, pairs and predictions of made-up promoters whose GC content is their expression."""
    random = np.random.default_rng(seed)
    sequences = ["".join(random.choice(list("ACGT"), 80, p=p)) for p in random.dirichlet([2, 2, 2, 2], rows)]
    activity = np.array([(s.count("G") + s.count("C")) / 80 for s in sequences])
    table = pd.DataFrame({
        "row_id": np.arange(rows) * 10, "sequence": sequences, "activity": activity,
        "random": random.random(rows) < 0.5, "leaderboard_public": random.random(rows) < 0.3,
        "split": np.where(np.arange(rows) < rows // 2, "train", "validation"),
    })  # fmt: skip
    ends = random.integers(0, rows, (2, 40)) * 10
    pairs = pd.DataFrame({"kind": "SNVs", "alt_row_id": ends[0], "ref_row_id": ends[1], "public": ends[0] < 100})
    predictions = pd.DataFrame({"row_id": table["row_id"], "prediction": activity + random.normal(0, 0.1, rows)})
    for name, frame in (("table", table), ("pairs", pairs), ("predictions", predictions)):
        frame.to_parquet(folder / f"{name}.parquet")
    return table, pairs, predictions


def load(folder, split=None):
    measurements = load_measurements(folder / "table.parquet", folder / "pairs.parquet", split=split)
    predictions, _ = read_predictions(folder / "predictions.parquet", measurements.rows["row_id"])
    return predictions, measurements


def slow_counts(sequence, size):
    """Count the words of one sequence, a word and its reverse complement as one, in alphabetical order."""
    words = {min(word, word.translate(COMPLEMENT)[::-1]): 0 for word in map("".join, product("ACGT", repeat=size))}
    for start in range(len(sequence) - size + 1):
        word = sequence[start : start + size]
        if "N" not in word:
            words[min(word, word.translate(COMPLEMENT)[::-1])] += 1
    return [words[word] for word in sorted(words)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz"])
def test_text_and_parquet_give_the_same(tmp_path, suffix):
    table, pairs, predictions = make_table(tmp_path)
    expected = score(*load(tmp_path))
    paths = {}
    for name, frame in (("table", table), ("pairs", pairs), ("predictions", predictions)):
        paths[name] = tmp_path / f"{name}{suffix}"
        frame.to_csv(paths[name], sep="\t" if suffix == ".tsv" else ",", index=False)
    measurements = load_measurements(paths["table"], paths["pairs"])
    values, extra = read_predictions(paths["predictions"], measurements.rows["row_id"])
    assert extra == 0
    found = score(values, measurements)
    assert found["note"] == expected["note"]
    for name, figures in expected["private"].items():
        assert found["private"][name] == pytest.approx(figures, abs=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_of_the_files_does_not_matter(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("tables")
    frames = dict(zip(("table", "pairs", "predictions"), make_table(folder), strict=True))
    expected = score(*load(folder))
    for name, frame in frames.items():
        frame.sample(frac=1, random_state=seed).to_parquet(folder / f"{name}.parquet")
    found = score(*load(folder))
    for part in ("all", "private"):
        assert list(found[part]) == list(expected[part])
        for name, figures in expected[part].items():
            assert found[part][name] == pytest.approx(figures, abs=1e-9)


def test_extra_predictions_are_ignored_and_counted(tmp_path):
    _, _, predictions = make_table(tmp_path)
    extra = pd.DataFrame({"row_id": [7, 8], "prediction": [np.nan, 1.0]})
    pd.concat([extra, predictions]).to_parquet(tmp_path / "more.parquet")
    row_ids = load_measurements(tmp_path / "table.parquet").rows["row_id"]
    values, num_extra = read_predictions(tmp_path / "more.parquet", row_ids)
    assert num_extra == 2
    np.testing.assert_array_equal(values, predictions["prediction"])


def test_split_keeps_its_rows_and_pairs_and_claims_no_score(shared):
    folder = shared / "data" / "dream2022"
    whole = load_measurements(folder / "measured_library.parquet", folder / "pairs.parquet")
    part = load_measurements(folder / "measured_library.parquet", folder / "pairs.parquet", split="validation")
    assert len(part.rows) == 7450
    assert set(part.rows["split"]) == {"validation"}

    def ends(measurements):
        ids = measurements.rows["row_id"].to_numpy()
        return set(zip(measurements.pairs["kind"], ids[measurements.pairs["alt"]], ids[measurements.pairs["ref"]],
                       strict=True))  # fmt: skip

    validation = set(part.rows["row_id"])
    assert ends(part) == {pair for pair in ends(whole) if pair[1] in validation and pair[2] in validation}
    result = score(part.rows["activity"].to_numpy(), part)
    assert set(result["all"]) == set(load_metric().CATEGORIES)
    assert "not the challenge's test set" in result["note"]
    assert "pearson_score" in score(whole.rows["activity"].to_numpy(), whole)["private"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("table", lambda t: t.drop(columns="activity"), "no column is known to be the value"),
        ("table", lambda t: pd.concat([t, t[:2]]), r"2 row_ids occur more than once \(0, 10\)"),
        ("table", lambda t: t.assign(activity=[np.nan, np.inf, *t["activity"][2:]]), "2 of 60 rows have no finite"),
        ("table", lambda t: t[:0], "no row"),
        ("table", lambda t: t.assign(random="yes"), "subset `random`"),
        ("pairs", lambda p: p.assign(alt_row_id=[5, *p["alt_row_id"][1:]]), r"1 of 40 pairs name rows .*row_id 5\)"),
        ("pairs", lambda p: p.assign(kind="indel"), "unknown kind of pair indel"),
        ("pairs", lambda p: p.rename(columns={"ref_row_id": "ref"}), "no column ref_row_id"),
        ("predictions", lambda p: p[3:], r"3 of 60 rows have no prediction \(row_id 0, 10, 20\)"),
        ("predictions", lambda p: pd.concat([p, p[:1]]), "1 row_ids occur more than once"),
        ("predictions", lambda p: p.assign(prediction=[np.nan, *p["prediction"][1:]]), "1 of 60 rows have no finite"),
        ("predictions", lambda p: p.assign(prediction="high"), "60 of 60 rows have no finite number"),
        ("predictions", lambda p: p.rename(columns={"prediction": "value"}), "one column prediction"),
    ],
)
def test_refuses(tmp_path, name, change, message):
    frames = dict(zip(("table", "pairs", "predictions"), make_table(tmp_path), strict=True))
    change(frames[name]).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=message):
        score(*load(tmp_path))


def test_usual_and_given_names_of_the_columns(tmp_path):
    table, _, predictions = make_table(tmp_path)
    expected = score(*load(tmp_path))["all"]
    table.rename(columns={"activity": "log2_ratio"}).to_parquet(tmp_path / "table.parquet")
    predictions.rename(columns={"prediction": "predicted_expression"}).to_parquet(tmp_path / "predictions.parquet")
    measurements = load_measurements(tmp_path / "table.parquet", tmp_path / "pairs.parquet", value_column="log2_ratio")
    values, _ = read_predictions(tmp_path / "predictions.parquet", measurements.rows["row_id"])
    assert score(values, measurements)["all"] == expected


def test_rows_without_an_id_are_numbered(tmp_path):
    table, *_ = make_table(tmp_path)
    table.drop(columns="row_id").to_parquet(tmp_path / "table.parquet")
    assert load_measurements(tmp_path / "table.parquet").rows["row_id"].tolist() == list(range(len(table)))


@pytest.mark.parametrize("flanks", [("TGCATTTTTTTCACATC", "GGTTACGGCTGTT"), ("", "")])
def test_rows_of_a_prepared_folder_are_those_of_its_table(tmp_path, flanks):
    random = np.random.default_rng(0)
    cores = ["".join(random.choice(list("ACGT"), 50)) for _ in range(80)]
    frame = pd.DataFrame({"sequence": [flanks[0] + core + flanks[1] for core in cores], "value": np.arange(80.0)})
    frame.to_csv(tmp_path / "table.csv", index=False)
    prepare_dataset(open_source(tmp_path / "table.csv"), tmp_path / "data", validation_fraction=0.3)
    rows = load_measurements(tmp_path / "data").rows
    assert dict(zip(rows["sequence"], rows["activity"], strict=True)) == dict(
        zip(frame["sequence"], frame["value"], strict=True)
    )
    held_out = load_measurements(tmp_path / "data", split="validation")
    assert 0 < len(held_out.rows) < 80
    assert set(held_out.rows["sequence"]) == set(rows["sequence"][rows["split"] == "validation"])
    assert score_baseline(tmp_path / "data", held_out)["scored_rows_in_training"] == 0
    assert score_baseline(tmp_path / "table.csv", held_out)["scored_rows_in_training"] == len(held_out.rows)


@pytest.mark.parametrize("options", [{}, {"cluster_column": "family"}, {"split_by": "row"}])
def test_clusters_of_a_prepared_folder_serve_the_bootstrap(tmp_path, options):
    random = np.random.default_rng(0)
    cores = ["".join(random.choice(list("ACGT"), 50)) for _ in range(30)]
    sequences = [one[:29] + other[29:] for one, other in pairwise(cores)][::3]  # near-copies of both
    frame = pd.DataFrame({"sequence": cores + sequences, "value": random.normal(size=30 + len(sequences))})
    frame["family"] = [f"f{row % 7}" for row in range(len(frame))]
    frame.to_csv(tmp_path / "table.csv", index=False)
    source = open_source(tmp_path / "table.csv")
    report = prepare_dataset(source, tmp_path / "data", validation_fraction=0.3, extra_columns=["family"], **options)
    measurements = load_measurements(tmp_path / "data")
    if "split_by" in options:
        assert "cluster" not in measurements.rows
        return
    codes = cluster_codes(measurements)
    assert codes.max() + 1 == report["clusters"]["number"] < len(frame)
    of_sequence = dict(zip(measurements.rows["sequence"], measurements.rows["cluster"], strict=True))
    if options:
        assert of_sequence == dict(zip(frame["sequence"], frame["family"], strict=True))
    else:
        assert [of_sequence[core] for core in cores[:4]] == [0, 0, 1, 2]


def test_refuses_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_measurements(tmp_path / "nothing.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"broken\.parquet"):
        load_measurements(tmp_path / "broken.parquet")
    (tmp_path / "table.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"table\.xlsx cannot be read as \.xlsx"):
        load_measurements(tmp_path / "table.xlsx")
    (tmp_path / "table.ods").write_bytes(b"")
    with pytest.raises(ValueError, match="unknown kind of table"):
        load_measurements(tmp_path / "table.ods")
    make_table(tmp_path)
    with pytest.raises(ValueError, match="no row of split test; it has train, validation"):
        load_measurements(tmp_path / "table.parquet", split="test")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("ACGTN", max_size=40).map("GG".__add__), min_size=1, max_size=5))
def test_kmer_counts_against_a_slow_version(sequences):
    ids, problems = encode_constructs(pa.array(sequences))
    assert problems == [""] * len(sequences)
    counts = kmer_counts(ids).toarray()
    assert counts.shape == (len(sequences), 692)
    for sequence, row in zip(sequences, counts, strict=True):
        np.testing.assert_array_equal(row, np.concatenate([slow_counts(sequence, size) for size in range(1, 6)]))
    reverse = [sequence.translate(COMPLEMENT)[::-1] for sequence in sequences]
    np.testing.assert_array_equal(kmer_counts(encode_constructs(pa.array(reverse))[0]).toarray(), counts)


def test_ridge_beats_the_mean(shared):
    rows = read_training_rows(shared / "data" / "dream2022" / "train_sample.tsv", max_rows=1500)
    assert rows.available == 6370
    assert len(rows.values) == 1500
    train, test = slice(0, 1200), slice(1200, None)
    predicted = fit_ridge(rows.ids[train], rows.values[train]).predict(rows.ids[test])
    error = np.mean((predicted - rows.values[test]) ** 2)
    assert error < 0.95 * np.mean((rows.values[train].mean() - rows.values[test]) ** 2)
    assert np.corrcoef(predicted, rows.values[test])[0, 1] > 0.25


@pytest.mark.slow
def test_ridge_figures_of_the_challenge_sample(shared):
    folder = shared / "data" / "dream2022"
    measurements = load_measurements(folder / "measured_library.parquet", folder / "pairs.parquet")
    result = score_baseline(folder / "train_sample.tsv", measurements)
    assert result["scored_rows_in_training"] == 0
    assert result["all"]["random"]["pearson_r"] == pytest.approx(0.80, abs=0.01)
    assert result["all"]["random"]["spearman_rho"] == pytest.approx(0.82, abs=0.01)
    assert result["all"]["all"]["pearson_r"] == pytest.approx(0.70, abs=0.01)
    assert result["all"]["all"]["spearman_rho"] == pytest.approx(0.71, abs=0.015)
    assert result["private"]["pearson_score"] == pytest.approx(0.285, abs=0.01)
    assert result["private"]["spearman_score"] == pytest.approx(0.490, abs=0.01)


def test_baseline_reads_the_rows_train_only(tmp_path):
    table, *_ = make_table(tmp_path)
    rows = read_training_rows(tmp_path / "table.parquet")
    np.testing.assert_allclose(np.sort(rows.values), np.sort(table["activity"][:30]))
    _, measurements = load(tmp_path, split="validation")
    held_out = score_baseline(tmp_path / "table.parquet", measurements)
    assert held_out["scored_rows_in_training"] == 0
    assert held_out["all"]["all"]["pearson_r"] > 0.9
    _, measurements = load(tmp_path)
    assert "30 of the scored sequences" in score_baseline(tmp_path / "table.parquet", measurements)["note"]


def test_baseline_reads_a_prepared_folder(tmp_path):
    from datasets import Dataset, DatasetDict, Features, List, Value

    from tokenization import FLANK3, FLANK5, KmerTokenizer

    random = np.random.default_rng(0)
    variable = ["".join(random.choice(list("ACGT"), length)) for length in (80, 79, 95, 100, *[70] * 10)]
    tokenizer = KmerTokenizer()
    ids = np.array([tokenizer(sequence)["input_ids"][:100] for sequence in variable], dtype=np.uint8)
    features = Features({"input_ids": List(Value("uint8"), length=100), "labels": Value("float32")})
    data = Dataset.from_dict({"input_ids": list(ids), "labels": np.arange(14.0)}, features=features)
    DatasetDict(train=data).save_to_disk(tmp_path / "data")
    settings_ = {"flank5": FLANK5, "flank3": FLANK3, "strand_length": 100, "kmer_size": 10, "trimming": "auto"}
    report = {"tokenizer": settings_, "rows_read": 14, "rows_trimmed": 14}
    (tmp_path / "data" / "report.json").write_text(json.dumps(report))
    rows = read_training_rows(tmp_path / "data")
    whole, _ = encode_constructs(pa.array([FLANK5 + sequence + FLANK3 for sequence in variable]))
    assert shared_sequences(rows.ids, whole) == 14
    np.testing.assert_array_equal(kmer_counts(rows.ids).toarray(), kmer_counts(whole).toarray())
    np.testing.assert_array_equal(rows.values, np.arange(14.0))


def test_too_few_training_rows(tmp_path):
    (tmp_path / "few.tsv").write_text("ACGTACGTAC\t1.5\nACGTACGTAG\t2.5\n")
    with pytest.raises(ValueError, match="2 usable training rows"):
        read_training_rows(tmp_path / "few.tsv")


def test_result_file_and_table(tmp_path):
    table, *_ = make_table(tmp_path)
    pd.DataFrame({"row_id": table["row_id"], "prediction": 1.0}).to_parquet(tmp_path / "constant.parquet")
    result = evaluate_files(
        tmp_path / "table.parquet", tmp_path / "new" / "score.json", predictions=tmp_path / "constant.parquet",
        pairs=tmp_path / "pairs.parquet", baseline_train=tmp_path / "table.parquet", plots=tmp_path / "plots",
    )  # fmt: skip
    stored = json.loads((tmp_path / "new" / "score.json").read_text())
    assert list(stored) == ["all", "private", "note", "baseline", "run"]
    assert list(stored["all"]) == ["all", "random", "SNVs"]
    assert list(stored["all"]["all"]) == ["n", "pearson_r", "pearson_r2", "spearman_rho"]
    assert stored["all"]["all"]["pearson_r"] is None
    assert stored["run"]["rows"] == 60
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["score.json"]
    lines = format_table(result).splitlines()
    assert len({len(line) for line in lines[:8]}) == 1
    assert [line.split("|")[1].strip() for line in lines[2:8]] == ["all", "all", "random", "random", "SNVs", "SNVs"]
    assert [line.split("|")[2].strip() for line in lines[2:4]] == ["model", "ridge"]
    assert "official score" not in "".join(lines[:8])


def test_failed_writing_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_result({"all": {1, 2}}, tmp_path / "score.json")
    assert not list(tmp_path.iterdir())


def test_scatter_plots(tmp_path):
    make_table(tmp_path)
    predictions, measurements = load(tmp_path)
    files = plot_categories(predictions, measurements, score(predictions, measurements), tmp_path / "plots")
    assert [path.name for path in files] == ["all.png", "random.png", "SNVs.png"]
    for path in files:
        image = imread(path)
        assert image.shape[1] == 670  # one column of 3.35 inches at 200 dpi
        assert image[..., :3].std() > 0.05


def test_scatter_writes_the_correlations():
    figure = scatter_with_density(np.arange(5.0), np.ones(5), pearson_r=math.nan, spearman_rho=-0.25, title="Five")
    text = figure.axes[0].texts[0].get_text()
    assert "undefined" in text
    assert "\N{MINUS SIGN}0.250" in text
    assert figure.axes[0].get_title(loc="left") == "Five"
    with pytest.raises(ValueError, match="as many measured as predicted"):
        scatter_with_density(np.ones(3), np.ones(2), pearson_r=0.0, spearman_rho=0.0)


def test_density_is_highest_in_the_middle():
    x, y = np.random.default_rng(0).normal(size=(2, 4000))
    density = point_density(x, y)
    distance = np.hypot(x, y)
    assert density[distance < 0.3].min() > density[distance > 2].max()
    assert (density >= 0).all()


def test_learning_curves(tmp_path):
    history = [
        {"loss": 2.0, "epoch": 0.5}, {"loss": 1.0, "epoch": 1.0},
        {"eval_loss": 1.5, "eval_pearson_r": 0.6, "eval_spearman_rho": 0.5, "epoch": 1.0},
        {"eval_loss": 1.2, "eval_pearson_r": 0.7, "eval_spearman_rho": 0.6, "epoch": 2.0},
        {"train_loss": 1.3, "train_runtime": 5.0, "epoch": 2.0},
    ]  # fmt: skip
    losses, correlations = learning_curves(history).axes
    training, validation = losses.lines
    np.testing.assert_array_equal(training.get_xydata(), [[0.5, 2.0], [1.0, 1.0]])
    np.testing.assert_array_equal(validation.get_xydata(), [[1.0, 1.5], [2.0, 1.2]])
    assert "0.700 at epoch 2" in correlations.get_title(loc="right")
    assert len(learning_curves(history[:2]).axes) == 1
    with pytest.raises(ValueError, match="no loss"):
        learning_curves([])
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        assert save_figure(learning_curves(history), tmp_path / f"curves{suffix}").read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r"\.png, \.pdf or \.svg"):
        save_figure(learning_curves(history), tmp_path / "curves.gif")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("lengths", [(230, 231), (20, 1_000)])
def test_ridge_reads_constructs_of_any_length(tmp_path, lengths):
    random = np.random.default_rng(0)
    shares = random.uniform(0.1, 0.7, 60)
    odds = [[share, *[(1 - share) / 3] * 3] for share in shares]
    sequences = ["".join(random.choice(list("ACGT"), lengths[row % 2], p=odds[row])) for row in range(60)]
    activity = [float(sequence.count("A")) for sequence in sequences]
    table = pd.DataFrame({"sequence": sequences, "activity": activity, "split": ["train"] * 40 + ["test"] * 20})
    table.to_parquet(tmp_path / "table.parquet")
    measurements = load_measurements(tmp_path / "table.parquet", split="test")
    result = score_baseline(tmp_path / "table.parquet", measurements)
    assert (result["training_rows"], result["scored_rows_in_training"]) == (40, 0)
    assert result["all"]["all"]["pearson_r"] > 0.9
    ids, _ = encode_constructs(pa.array(sequences))
    for sequence, row in zip(sequences[:2], kmer_counts(ids[:2]).toarray(), strict=True):
        np.testing.assert_array_equal(row, np.concatenate([slow_counts(sequence, size) for size in range(1, 6)]))
    assert score_baseline(tmp_path / "table.parquet", load_measurements(tmp_path / "table.parquet"))[
        "scored_rows_in_training"
    ] == 40  # fmt: skip


def test_sequences_that_the_baseline_cannot_read_are_named(tmp_path):
    sequences = ["ACGT", "ACXT", "", "ACGT" * 3_000]
    pd.DataFrame({"sequence": sequences, "activity": 1.0, "row_id": list("abcd")}).to_csv(tmp_path / "t.csv")
    table = load_measurements(tmp_path / "t.csv")
    table.rows["sequence"] = sequences
    with pytest.raises(ValueError) as caught:
        score_baseline(tmp_path / "t.csv", table)
    message = str(caught.value)
    assert message.startswith("3 of 4 sequences of the table cannot be used (row_id b: letter 'X' at position 3")
    assert "row_id c: empty sequence" in message and "row_id d: 12000 nt are more than" in message


def test_each_split_of_a_prepared_folder_is_scored(tmp_path):
    random = np.random.default_rng(0)
    sequences = ["".join(random.choice(list("ACGT"), 50)) for _ in range(90)]
    split = ["train"] * 50 + ["validation"] * 10 + ["test"] * 30
    frame = pd.DataFrame({"sequence": sequences, "value": np.arange(90.0), "split": split})
    frame.to_csv(tmp_path / "table.csv", index=False)
    prepare_dataset(open_source(tmp_path / "table.csv", split_column="split"), tmp_path / "data")
    for name, rows in frame.groupby("split"):
        measurements = load_measurements(tmp_path / "data", split=name)
        assert set(measurements.rows["sequence"]) == set(rows["sequence"])
        assert score(np.arange(len(rows)), measurements)["all"]["all"]["n"] == len(rows)
    with pytest.raises(ValueError, match="no row of split tests; it has train, validation, test"):
        load_measurements(tmp_path / "data", split="tests")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv.gz", "t.xlsx"])
def test_a_damaged_table_is_one_line_that_names_it(tmp_path, name):
    frame, path = pd.DataFrame({"sequence": ["ACGT" * 20] * 500, "activity": np.arange(500.0)}), tmp_path / name
    if name == "t.xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_parquet(path) if name == "t.parquet" else frame.to_csv(path, index=False)
    content = path.read_bytes()
    for damaged in (content[:-20], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=name) as caught:
            load_measurements(path)
        assert "\n" not in str(caught.value)
