import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from tests.data.test_prepare import random_dna

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
        (
            ["--source", "commas.csv"],
            "error: commas.csv: no row is left of 1 (1 value is not a number); first: line 2, '1,5' (decimal commas?)",
        ),
    ],
)
def test_errors_are_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("bad.tsv").write_text("ACGTACGT\t1\nACGTACGT\tx\n")
    Path("commas.csv").write_text('sequence,value\nACGTACGT,"1,5"\n')
    with pytest.raises(SystemExit) as stop:
        main(*arguments, "--output", "out")
    assert str(stop.value).startswith(message)
    assert "\n" not in str(stop.value)
    assert sorted(os.listdir()) == ["bad.tsv", "commas.csv"]


def prepare(tmp_path, *options):
    main("--source", "simulate", "--num_sequences", 200, "--output", tmp_path / "out", "--overwrite", *options)
    return json.loads((tmp_path / "out/report.json").read_text())


def test_padding_that_is_not_needed_is_reported(tmp_path, capsys):
    prepare(tmp_path)
    assert "padded to 100 nt: --strand_length 80 would fit" in capsys.readouterr().out
    prepare(tmp_path, "--strand_length", 80)
    prepare(tmp_path, "--strand_length", 88)
    assert "would fit" not in capsys.readouterr().out


def test_settings_of_a_checkpoint(tmp_path, tiny_folder, capsys):
    settings = {"kmer_size": 5, "strand_length": 20, "flank5": "ACCA", "flank3": "GGT", "trimming": "auto"}
    texts = random_dna(60, 16)
    (tmp_path / "t.tsv").write_text("".join(f"ACCA{text}GGT\t{index}\n" for index, text in enumerate(texts)))
    options = ["--source", tmp_path / "t.tsv", "--output", tmp_path / "out", "--overwrite", "--init_from", tiny_folder]
    main(*options)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["tokenizer"] == settings and report["init_from"] == str(tiny_folder)
    assert report["rows_trimmed"] == 60 and "would fit" not in capsys.readouterr().out
    main(*options, "--flank5", "ACC", "--strand_length", 20)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["tokenizer"] == {**settings, "flank5": "ACC"}
    for more, message in (
        (["--strand_length", 30], f"error: --strand_length is 20 in {tiny_folder}, got 30: leave it out"),
        (["--kmer_size", 3], f"error: --kmer_size is 5 in {tiny_folder}, got 3: leave it out"),
        (["--init_from", tmp_path / "a/b/c"], "error: there is no checkpoint folder"),
        (["--init_from", other_model(tmp_path)], "is a model of type 'bert', not 'macaron'"),
        (["--init_from", without_tokenizer(tmp_path, tiny_folder)], "has kmer_size 5, its tokenizer 10"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(*options, *more)
        assert message in str(stop.value) and "\n" not in str(stop.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer_config.json", "[1,2]", "cannot be loaded (TypeError)"),
        ("tokenizer_config.json", '{"strand_length": "x"}', "cannot be loaded (ValueError)"),
        ("config.json", '{"model_type": "macaron", "hidden_size": null}', "cannot be loaded (StrictDataclass"),
        ("config.json", "[]", "cannot be loaded (ValueError): config.json must hold an object"),
    ],
)
def test_damaged_settings_of_a_checkpoint_are_one_line(tmp_path, tiny_folder, file, content, message):
    folder = shutil.copytree(tiny_folder, tmp_path / "damaged")
    (folder / file).write_text(content)
    with pytest.raises(SystemExit) as stop:
        main("--source", "simulate", "--output", tmp_path / "out", "--init_from", folder)
    assert str(stop.value).startswith(f"error: the checkpoint {folder} {message}") and "\n" not in str(stop.value)
    assert not (tmp_path / "out").exists()


def other_model(tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    return tmp_path / "bert"


def without_tokenizer(tmp_path, folder):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_text((folder / "config.json").read_text())
    return tmp_path / "bare"


def test_division_from_the_command_line(tmp_path, capsys):
    texts = random_dna(60, 40)
    rows = [f"{text}\t{index}\t{index + 2}\tf{index // 3}" for index, text in enumerate(texts * 2)]
    (tmp_path / "t.tsv").write_text("\n".join(["sequence\tr1\tr2\tfamily", *rows]) + "\n")
    options = [
        "--source",
        tmp_path / "t.tsv",
        "--output",
        tmp_path / "out",
        "--overwrite",
        "--value_column",
        "r1",
        "r2",
    ]
    main(*options, "--average_duplicates", "--cluster_column", "family", "--validation_fraction", 0.2)
    assert "kept        120, averaged to 60 = train 48 + validation 12" in capsys.readouterr().out
    labels = {row["row"]: row["labels"] for row in datasets.load_from_disk(str(tmp_path / "out"))["train"].to_list()}
    assert all(label == number - 2 + 31 for number, label in labels.items())
    main(*options, "--split_by", "row", "--validation_fraction", 0.2)
    assert "clusters" not in capsys.readouterr().out
    main(*options, "--cluster_kmer", "25")
    assert "clusters    60 (25 nt in common), the largest of 2 rows" in capsys.readouterr().out


def test_simulated_table_is_not_replaced_unasked(tmp_path):
    simulate = runpy.run_path(str(ROOT / "scripts/simulate.py"))["main"]
    output = tmp_path / "t.tsv"
    output.write_text("mine\n")
    with pytest.raises(SystemExit, match=r"error: .*t.tsv exists already; choose another name or pass --overwrite"):
        simulate([str(output), "--num_sequences", "5"])
    assert output.read_text() == "mine\n"
    simulate([str(output), "--num_sequences", "5", "--overwrite"])
    assert len(output.read_text().splitlines()) == 6


def test_no_network(tmp_path):
    done = run("--output", tmp_path / "out", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: data set HuggingFaceBio/random-promoter-dream-2022: the Hub cannot be reached" in done.stderr
    assert not (tmp_path / "out").exists()
