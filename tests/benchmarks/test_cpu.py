"""CPU benchmark: all parts run and write results."""

import json

import pandas as pd
import pytest
import torch

from benchmarks import cpu, report
from benchmarks.data import write_challenge_table
from benchmarks.figures import Results, describe_machine, result_path
from tokenization import FLANK3, FLANK5


@pytest.mark.slow
def test_every_part_writes_its_results(tmp_path, monkeypatch):
    def compile_nothing(*_, **__):
        raise RuntimeError("no compiler")  # compiling takes longer than everything else

    monkeypatch.setattr(torch, "compile", compile_nothing)
    path = tmp_path / "out.json"
    assert cpu.main(["--size", "tiny", "--rows", "12000", "--output", str(path)]) == 0
    output = json.loads(path.read_text())
    names = " ".join(figure["name"] for figure in output["figures"])
    for part in ("merged + expression only", "train: library", "tokenizer", "shuffled reading"):
        assert part in names
    assert len(output["tables"]["inference"]) == 16 and len(output["tables"]["reading"]) == 6
    preparation = [(row["table"], row["rows"]) for row in output["tables"]["preparation"]]
    assert preparation == [("TSV", 10_000), ("TSV", 12_000), ("TSV.gz", 12_000)]
    assert len(output["checks"]) == 9 and all(figure["value"] > 0 for figure in output["figures"])
    assert 100 < output["tables"]["preparation"][0]["peak_memory_mb"] < 1000
    assert "/" not in output["command"]
    report.save_figure(report.plot(output), tmp_path / "plot.png")
    assert "| preparation of 12,000 rows, TSV | " in report.render_figures([output])


@pytest.mark.parametrize(("error", "code"), [(1e-12, 0), (1e-3, 1), (float("nan"), 1)])
def test_failed_equalities_are_reported(tmp_path, error, code):
    machine = describe_machine()
    results, path = Results("cpu", machine), result_path(machine, tmp_path / "new")
    results.check("equal", error, 1e-10)
    assert results.finish(path) == code
    saved = json.loads(path.read_text())
    assert [check["holds"] for check in saved["checks"]] == [code == 0] and saved["machine"] == machine


def test_table_resembles_the_challenge(tmp_path):
    write_challenge_table(tmp_path / "t.tsv", 3000)
    frame = pd.read_csv(tmp_path / "t.tsv", sep="\t", names=["sequence", "expression"])
    assert len(frame) == 3000 and frame["expression"].between(0, 17).all()
    assert frame["sequence"].str.startswith(FLANK5).all() and frame["sequence"].str.endswith(FLANK3).all()
    lengths = frame["sequence"].str.len()
    assert 0.75 < (lengths == 110).mean() < 0.9 and lengths.min() >= 87
    assert set("".join(frame["sequence"])) == set("ACGTN")
    assert (tmp_path / "t.tsv").stat().st_size / 3000 == pytest.approx(805_369_640 / 6_739_258, rel=0.03)
