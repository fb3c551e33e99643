"""Benchmark of the CPU: its parts run, what it finds is written, and the README shows it."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import cpu, report
from benchmarks.challenge_table import challenge_batches, random_sequences, write_challenge_table
from benchmarks.figures import Figure, Results, describe_machine, result_path, show
from benchmarks.original_way import prepare as prepare_the_original_way
from benchmarks.pages import render_block
from tokenization import FLANK3, FLANK5, KmerTokenizer

MACHINE = {"name": "2 cores of Some CPU", "versions": {"torch": "2.0"}}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """JSON of all parts on a tiny model and a small table."""
    path = tmp_path_factory.mktemp("benchmarks") / "out.json"
    assert cpu.main(["--size", "tiny", "--rows", "12000", "--output", str(path)]) == 0
    return json.loads(path.read_text())


@pytest.mark.slow
def test_every_part_leaves_its_figures(output):
    names = " ".join(figure["name"] for figure in output["figures"])
    for part in (
        "merged + expression only",
        "train: library",
        "preparation of 12,000 rows",
        "TSV.gz",
        "original's way",
        "tokenizer",
    ):
        assert part in names
    assert "shuffled reading" in names and "bulk prediction" in names
    assert {"inference", "preparation", "reading"} == set(output["tables"])
    assert len(output["tables"]["inference"]) == 16
    assert [row["rows"] for row in output["tables"]["preparation"]] == [10_000, 12_000, 12_000]
    assert len(output["checks"]) >= 12 and all(check["holds"] for check in output["checks"])
    assert all(figure["value"] is None or figure["value"] > 0 for figure in output["figures"])
    assert 100 < output["tables"]["preparation"][0]["peak_memory_mb"] < 1000
    assert "/" not in output["command"] and output["seconds"] > 0


@pytest.mark.slow
def test_plot_of_the_results(output, tmp_path):
    report.save_figure(report.plot(output), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_failing_equality_is_a_failure_and_a_slow_machine_is_none(tmp_path):
    results = Results("cpu", MACHINE)
    results.figure("slow", 1.0, "x", bar=2.0)
    assert results.exit_code == 0
    results.check("equal", 1e-12, 1e-10)
    assert results.exit_code == 0
    results.check("not equal", 1e-3, 1e-10)
    assert results.exit_code == 1
    results.save(tmp_path / "out.json")
    saved = json.loads((tmp_path / "out.json").read_text())
    assert [check["holds"] for check in saved["checks"]] == [True, False]
    assert saved["figures"][0]["verdict"] == "missed"


@pytest.mark.parametrize("error", [float("nan"), float("inf")])
def test_error_that_is_no_number_fails_and_is_saved(tmp_path, error):
    results = Results("cpu", MACHINE)
    results.check("equal", error, 1e300)
    results.save(tmp_path / "out.json")
    assert results.exit_code == 1


@pytest.mark.parametrize(
    ("value", "bar", "lower", "verdict"),
    [(2.0, 1.7, False, "reached"), (1.0, 1.7, False, "missed"), (2.0, 3.0, True, "reached"), (None, 3.0, True, "")],
)
def test_verdict(value, bar, lower, verdict):
    assert Figure("x", value, "s", bar, lower).verdict == verdict


def test_values_for_people():
    assert [show(value) for value in (None, 1234.5, 1.2345, 47_425_543, "a")] == [
        "-",
        "1,234",
        "1.23",
        "47,425,543",
        "a",
    ]


def test_machine_and_its_file():
    machine = describe_machine()
    assert machine["cores"] >= 1 and machine["versions"]["torch"]
    assert result_path(MACHINE).name == "2-cores-of-some-cpu.json"


def test_table_has_the_shape_of_the_challenges(tmp_path):
    write_challenge_table(tmp_path / "t.tsv", 3000)
    frame = pd.read_csv(tmp_path / "t.tsv", sep="\t", names=["sequence", "expression"])
    assert len(frame) == 3000 and frame["expression"].between(0, 17).all()
    assert frame["sequence"].str.startswith(FLANK5).all() and frame["sequence"].str.endswith(FLANK3).all()
    lengths = frame["sequence"].str.len()
    assert 0.75 < (lengths == 110).mean() < 0.9 and lengths.min() >= 87
    assert set("".join(frame["sequence"])) == set("ACGTN")
    assert (tmp_path / "t.tsv").stat().st_size / 3000 == pytest.approx(805_369_640 / 6_739_258, rel=0.03)
    write_challenge_table(tmp_path / "t.tsv.gz", 3000)
    assert gzip.decompress((tmp_path / "t.tsv.gz").read_bytes()) == (tmp_path / "t.tsv").read_bytes()


def test_longer_table_begins_like_a_shorter_one():
    short, long = (next(iter(challenge_batches(rows, seed=3))) for rows in (10, 1000))
    assert long.slice(0, 10).equals(short)


def test_original_way_encodes_as_the_tokenizer(tmp_path):
    write_challenge_table(tmp_path / "t.tsv", 500)
    ids, values = prepare_the_original_way(tmp_path / "t.tsv")
    frame = pd.read_csv(tmp_path / "t.tsv", sep="\t", names=["sequence", "expression"])
    kept = frame[frame["sequence"].str.len() <= 130]
    expected = KmerTokenizer()(kept["sequence"].tolist(), return_tensors="np")["input_ids"]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(values, kept["expression"])


def test_sequences_depend_on_the_seed():
    assert random_sequences(5, 0).equals(random_sequences(5, 0))
    assert not random_sequences(5, 0).equals(random_sequences(5, 1))


def test_readme_shows_the_committed_results():
    text = report.README.read_text(encoding="utf-8")
    assert render_block(report.BLOCK, report.render_figures(report.read_results())) in text, (
        "run python -m benchmarks.report"
    )
    assert report.PLOT.is_file()


def test_trials_are_not_shown(tmp_path):
    for name, machine in (("trial", {"size": "tiny"}), ("gpu", {"size": "paper"}), ("cpu", {})):
        report_of = {"kind": name, "machine": machine}
        (tmp_path / f"{name}.json").write_text(json.dumps(report_of))
    assert [found["kind"] for found in report.read_results(tmp_path)] == ["gpu", "cpu"]


def test_output_that_is_a_folder_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cpu.main(["--output", str(tmp_path)])
    assert "name a file that ends in .json" in capsys.readouterr().err


def test_too_few_rows_are_refused(capsys):
    with pytest.raises(SystemExit):
        cpu.main(["--rows", "10"])
    assert "--rows must be more than 10,000" in capsys.readouterr().err
