import json
import os
from pathlib import Path

import datasets
import pytest

from scripts.prepare_data import main as prepare_data
from scripts.simulate import main as simulate
from tests.data.test_prepare import random_dna


def main(*arguments):
    prepare_data([*map(str, arguments)])


def test_challenge_sample_from_the_command_line(shared, tmp_path, capsys):
    source = shared / "data/dream2022/train_sample.tsv"
    main("--source", source, "--output", tmp_path / "out", "--validation_fraction", 0.1, "--seed", 3)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["rows_read"] == 6370 and report["seed"] == 3 and report["validation_fraction"] == 0.1
    printed = capsys.readouterr()
    assert "kept        6,367 = train" in printed.out and str(tmp_path / "out") in printed.out
    assert "rows: 6,370 [" in printed.err
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
    columns = datasets.load_from_disk(str(tmp_path / "out"))["train"].column_names
    assert columns == ["input_ids", "labels", "row", "cluster", "motif"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "missing.tsv"], "error: there is no file missing.tsv"),
        (["--source", "simulate", "--num_sequences", "200", "--strand_length", "0"], "error: `strand_length` must be"),
        (["--source", "nonsense"], "error: 'nonsense' is neither a file"),
        (["--source", "bad.tsv", "--strict"], "error: bad.tsv, line 2: value is not a number: 'x'"),
        (["--source", "commas.csv"], "error: commas.csv: no row is left of 1 (1 value is not a number); first: line 2"),
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


def test_settings_of_a_checkpoint(tmp_path, tiny_folder):
    settings = {"kmer_size": 5, "strand_length": 20, "flank5": "ACCA", "flank3": "GGT", "trimming": "auto"}
    texts = random_dna(60, 16)
    (tmp_path / "t.tsv").write_text("".join(f"ACCA{text}GGT\t{index}\n" for index, text in enumerate(texts)))
    options = ["--source", tmp_path / "t.tsv", "--output", tmp_path / "out", "--overwrite", "--init_from", tiny_folder]
    main(*options)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["tokenizer"] == settings and report["rows_trimmed"] == 60
    main(*options, "--flank5", "ACC", "--strand_length", 20)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["tokenizer"] == {**settings, "flank5": "ACC"}
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_text((tiny_folder / "config.json").read_text())
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.json").write_text("[]")
    for more, message in (
        (["--strand_length", 30], f"error: strand_length is 20 in {tiny_folder}, got 30"),
        (["--init_from", tmp_path / "a/b/c"], "error: there is no checkpoint folder"),
        (["--init_from", tmp_path / "bare"], "kmer_size is 5 in"),
        (["--init_from", tmp_path / "damaged"], "config.json must hold an object"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(*options, *more)
        assert message in str(stop.value) and "\n" not in str(stop.value)


def test_split_options_on_the_command_line(tmp_path, capsys):
    texts = random_dna(60, 40)
    rows = [f"{text}\t{index}\t{index + 2}\tf{index // 3}" for index, text in enumerate(texts * 2)]
    (tmp_path / "t.tsv").write_text("\n".join(["sequence\tr1\tr2\tfamily", *rows]) + "\n")
    options = ["--source", tmp_path / "t.tsv", "--output", tmp_path / "out", "--overwrite"]
    options += ["--value_column", "r1", "r2"]
    main(*options, "--average_duplicates", "--cluster_column", "family", "--validation_fraction", 0.2)
    assert "kept        120, averaged to 60 = train 48 + validation 12" in capsys.readouterr().out
    labels = {row["row"]: row["labels"] for row in datasets.load_from_disk(str(tmp_path / "out"))["train"].to_list()}
    assert all(label == number - 2 + 31 for number, label in labels.items())
    main(*options, "--split_by", "row", "--validation_fraction", 0.2)
    assert "clusters" not in capsys.readouterr().out
    main(*options, "--cluster_kmer", "25")
    assert "clusters    60 (25 nt in common), the largest of 2 rows" in capsys.readouterr().out


def test_simulated_tables_are_not_replaced_by_default(tmp_path):
    output = tmp_path / "t.tsv"
    output.write_text("mine\n")
    with pytest.raises(SystemExit, match=r"error: .*t.tsv exists already; choose another name or pass --overwrite"):
        simulate([str(output), "--num_sequences", "5"])
    assert output.read_text() == "mine\n"
    simulate([str(output), "--num_sequences", "5", "--overwrite"])
    assert len(output.read_text().splitlines()) == 6
