"""Benchmark of memory: every verb runs, and what grows with the file is seen."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from benchmarks import memory
from benchmarks.figures import Results
from benchmarks.peak_memory import _MEASURED, run_script


@pytest.mark.slow
def test_verbs_leave_their_figures(tmp_path):
    assert memory.main(["--sizes", "40", "20", "--output", str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    rows = [(row["verb"], row["rows"], row["lines"]) for row in report["tables"]["memory"]]
    mutants = 3 * memory.STRAND_LENGTH
    assert rows == [
        *(("predict", 20, 20), ("predict", 40, 40)),
        *(("variants", 20, 20), ("variants", 40, 40)),
        *(("mutagenesis", 20, 20 * mutants), ("mutagenesis", 40, 40 * mutants)),
        *(("attribution", 20, 20 * memory.STRAND_LENGTH), ("attribution", 40, 40 * memory.STRAND_LENGTH)),
    ]
    assert all(100 < row["peak_memory_mb"] < 2000 for row in report["tables"]["memory"])
    assert len(report["figures"]) == 4


def test_growth_is_missed(tmp_path, monkeypatch):
    peaks = iter([100.0, 200.0, 251.0])
    monkeypatch.setattr(memory, "make_checkpoint", lambda folder: None)

    def fake(verb, model, source, output):
        pd.read_parquet(source).to_parquet(output)
        return 1.0, next(peaks)

    monkeypatch.setattr(memory, "run_script", fake)
    results = Results("memory", {"name": "some"})
    memory.run(results, [10, 20, 30], ["predict"], tmp_path)
    (figure,) = results.figures
    assert figure.value == pytest.approx(251 / 200) and figure.verdict == "missed"


def test_promoters_hold_their_reference_alleles(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_BLOCK_ROWS", 7)
    memory.write_promoters(tmp_path / "in.parquet", 20)
    frame = pd.read_parquet(tmp_path / "in.parquet")
    assert len(frame) == 20 and frame.sequence.nunique() > 15
    for row in frame.itertuples():
        assert row.sequence[row.position - 1] == row.ref != row.alt


def test_peak_is_that_of_the_script(tmp_path, monkeypatch):
    """A script that takes 200 MB more has a peak of 200 MB more."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "taker.py").write_text(
        "import numpy\ndef main(arguments):\n    numpy.ones(int(arguments[0]) * 125_000)\n"
    )
    peaks = []
    for megabytes in ("1", "201"):
        command = [sys.executable, "-c", _MEASURED, "taker", megabytes]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env={})
        peaks.append(float(done.stdout))
    assert np.diff(peaks)[0] == pytest.approx(200, abs=20)


def test_script_that_fails_is_told():
    with pytest.raises(RuntimeError, match=r"scripts/predict\.py failed: .*there is no file absent"):
        run_script("predict", "absent", "absent.tsv", "out.csv")
