import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "prepare_data.py"


def main(*arguments):
    """Run the script in this process."""
    runpy.run_path(str(SCRIPT))["main"]([*map(str, arguments)])


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        timeout=300,
    )


def test_challenge_sample_from_the_command_line(shared, tmp_path):
    source = shared / "data/dream2022/train_sample.tsv"
    done = run("--source", source, "--output", tmp_path / "out", "--validation_fraction", 0.1, "--seed", 3)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["rows_read"] == 6370 and report["seed"] == 3 and report["validation_fraction"] == 0.1
    assert "kept        6,367 = train" in done.stdout
    assert str(tmp_path / "out") in done.stdout
    assert "rows: 6,370 [" in done.stderr
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    assert {split: len(rows) for split, rows in loaded.items()} == {
        split: about["rows"] for split, about in report["splits"].items()
    }


def test_simulation_with_other_sequence_options(tmp_path):
    options = ["--num_sequences", 300, "--strand_length", 120, "--trimming", "never", "--kmer_size", 5]
    main("--source", "simulate", "--output", tmp_path / "out", *options, "--extra_columns", "motif")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["length_histogram"] == {"110": 300}
    assert report["tokenizer"]["kmer_size"] == 5 and report["tokenizer"]["trimming"] == "never"
    assert datasets.load_from_disk(str(tmp_path / "out"))["train"].column_names == [
        "input_ids",
        "labels",
        "row",
        "cluster",
        "motif",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "missing.tsv"], "error: there is no file missing.tsv"),
        (["--source", "simulate", "--num_sequences", "200", "--strand_length", "0"], "error: `strand_length` must be"),
        (["--source", "nonsense"], "error: 'nonsense' is neither a file"),
        (
            ["--source", "bad.tsv", "--strict"],
            "error: bad.tsv, line 2: value is not a number: 'x'; nothing was written",
        ),
    ],
)
def test_errors_are_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("bad.tsv").write_text("ACGTACGT\t1\nACGTACGT\tx\n")
    with pytest.raises(SystemExit) as stop:
        main(*arguments, "--output", "out")
    assert str(stop.value).startswith(message)
    assert "\n" not in str(stop.value)
    assert os.listdir() == ["bad.tsv"]


def test_no_network(tmp_path):
    done = run("--output", tmp_path / "out", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: data set HuggingFaceBio/random-promoter-dream-2022: the Hub cannot be reached" in done.stderr
    assert not (tmp_path / "out").exists()
