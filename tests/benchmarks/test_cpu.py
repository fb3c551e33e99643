"""Benchmark of the CPU: its parts run, the results are written, and the README shows them."""

import json

import pandas as pd
import pytest

from benchmarks import cpu, report
from benchmarks.data import write_challenge_table
from benchmarks.figures import Results, describe_machine, result_path, show
from benchmarks.pages import render_block
from tokenization import FLANK3, FLANK5


@pytest.mark.slow
def test_every_part_leaves_its_figures(tmp_path):
    path = tmp_path / "out.json"
    assert cpu.main(["--size", "tiny", "--rows", "12000", "--output", str(path)]) == 0
    output = json.loads(path.read_text())
    names = " ".join(figure["name"] for figure in output["figures"])
    for part in ("merged + expression only", "train: library", "preparation of 12,000 rows", "TSV.gz", "tokenizer"):
        assert part in names
    assert set(output["tables"]) == {"inference", "preparation", "reading"}
    assert len(output["tables"]["inference"]) == 16
    preparation = [(row["table"], row["rows"]) for row in output["tables"]["preparation"]]
    assert preparation == [("TSV", 10_000), ("TSV", 12_000), ("TSV.gz", 12_000)]
    assert len(output["checks"]) == 9 and all(check["holds"] for check in output["checks"])
    assert all(figure["value"] > 0 for figure in output["figures"])
    assert 100 < output["tables"]["preparation"][0]["peak_memory_mb"] < 1000
    assert "/" not in output["command"] and output["seconds"] > 0
    report.save_figure(report.plot(output), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    assert "| preparation of 12,000 rows, TSV | " in report.render_figures([output])


@pytest.mark.parametrize(("error", "code"), [(1e-12, 0), (1e-3, 1), (float("nan"), 1), (float("inf"), 1)])
def test_an_equality_that_does_not_hold_is_a_failure(tmp_path, error, code):
    results = Results("cpu", describe_machine())
    results.figure("slow", 1.0, "x")
    results.check("equal", error, 1e-10)
    assert results.finish(tmp_path / "new" / "out.json") == code
    saved = json.loads((tmp_path / "new" / "out.json").read_text())
    assert [check["holds"] for check in saved["checks"]] == [code == 0]
    assert saved["machine"]["cores"] >= 1 and saved["machine"]["versions"]["torch"]


def test_names_and_values_for_people():
    values = (None, 1234.5, 1.2345, 47_425_543, "a")
    assert [show(value) for value in values] == ["-", "1,234", "1.23", "47,425,543", "a"]
    assert result_path({"name": "2 cores of Some CPU"}).name == "2-cores-of-some-cpu.json"


def test_table_has_the_shape_of_the_challenges(tmp_path):
    write_challenge_table(tmp_path / "t.tsv", 3000)
    frame = pd.read_csv(tmp_path / "t.tsv", sep="\t", names=["sequence", "expression"])
    assert len(frame) == 3000 and frame["expression"].between(0, 17).all()
    assert frame["sequence"].str.startswith(FLANK5).all() and frame["sequence"].str.endswith(FLANK3).all()
    lengths = frame["sequence"].str.len()
    assert 0.75 < (lengths == 110).mean() < 0.9 and lengths.min() >= 87
    assert set("".join(frame["sequence"])) == set("ACGTN")
    assert (tmp_path / "t.tsv").stat().st_size / 3000 == pytest.approx(805_369_640 / 6_739_258, rel=0.03)


def test_readme_shows_the_committed_results():
    block = render_block(report.BLOCK, report.render_figures(report.read_results()))
    assert block in report.README.read_text(encoding="utf-8"), "python -m benchmarks.report"
    assert report.PLOT.is_file()
