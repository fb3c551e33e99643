"""Memory benchmark: every command runs, and the peak is that of the command only."""

import json

import pandas as pd
import pytest

from benchmarks import figures, memory


@pytest.mark.slow
def test_commands_write_their_results(tmp_path):
    assert memory.main(["--sizes", "20", "--output", str(tmp_path / "out.json")]) == 0
    table = json.loads((tmp_path / "out.json").read_text())["tables"]["memory"]
    lines = {"predict": 20, "variants": 20, "mutagenesis": 20 * 36, "attribution": 20 * 12}
    assert {row["command"]: row["lines"] for row in table} == lines
    assert all(100 < row["peak_memory_mb"] < 2000 for row in table)


def test_promoters_hold_their_reference_alleles(tmp_path):
    memory.write_promoters(tmp_path / "in.parquet", 20)
    frame = pd.read_parquet(tmp_path / "in.parquet")
    assert len(frame) == 20 and frame.sequence.nunique() > 15
    for row in frame.itertuples():
        assert row.sequence[row.position - 1] == row.ref != row.alt


def test_peak_is_that_of_the_script(tmp_path, monkeypatch):
    """A script that uses 200 MB more has a peak 200 MB higher."""
    script = "import numpy\ndef main(arguments):\n    numpy.ones(int(arguments[0]) * 125_000)\n"
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "taker.py").write_text(script)
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    small, large = (figures.run_script("taker", megabytes, folder=tmp_path)[1] for megabytes in (1, 201))
    assert large - small == pytest.approx(200, abs=20)


def test_a_script_that_fails_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match=r"scripts/predict\.py failed: .*there is no file absent"):
        figures.run_script("predict", "absent", "absent.tsv", "out.csv", folder=tmp_path)
