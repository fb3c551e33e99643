"""Evaluation of files, by the command line and in Python."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modeling_macaron.evaluation.report import format_table
from modeling_macaron.evaluation.score import EvaluationOptions, evaluate_files
from modeling_macaron.predictor import as_predictor
from scripts import evaluate as script
from tests.evaluation.tables import make_tables

SCRIPT = Path(script.__file__)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    make_tables(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(**changes):
    options = {"predictions": "predictions.parquet", "table": "table.parquet", "output": "s.json"} | changes
    return [text for name, value in options.items() if value for text in (f"--{name}", str(value))]


def cells(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


@pytest.mark.slow
def test_official_figures_in_a_new_process(shared, tmp_path):
    """The script's folder is first on the path and has a file named like the library `evaluate`."""
    data, fixture = shared / "data" / "dream2022", shared / "fixtures" / "dream_score"
    options = arguments(
        predictions=fixture / "predictions.parquet", table=data / "measured_library.parquet",
        pairs=data / "pairs.parquet",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| official score     | model     |        |    0.7575 |       0.8234 |" in done.stdout
    stored, expected = (json.loads(p.read_text()) for p in (tmp_path / "s.json", fixture / "expected.json"))
    for part, categories in expected.items():
        for name, figures in categories.items():
            assert stored[part][name] == pytest.approx(figures, rel=0, abs=1e-14)


def test_table_and_file_hold_the_same_figures(folder, capsys):
    options = {"baseline_train": "table.parquet", "intervals": 50, "cluster_column": "family", "plots": "plots"}
    script.main(arguments(pairs="pairs.parquet", **options))
    printed = capsys.readouterr().out
    stored = json.loads((folder / "s.json").read_text())
    assert list(stored) == ["all", "private", "note", "baseline", "run"]
    assert stored["run"].items() >= {"rows": 60, "intervals": 50, "clusters": 20, "seed": 0}.items()
    assert stored["baseline"]["training_rows"] == 30
    header, _, *rows = cells(printed)
    assert header[2:8] == ["n", "Pearson r", "95 % interval", "Spearman rho", "95 % interval", "n private"]
    assert [row[:2] for row in rows] == [[name, by] for name in ("all", "random", "SNVs") for by in ("model", "ridge")]
    for model, ridge in zip(rows[::2], rows[1::2], strict=True):
        figures, private = stored["all"][model[0]], stored["private"][model[0]]
        low, high = figures["pearson_r_interval"]
        assert low < figures["pearson_r"] < high
        assert model[3:5] == [f"{figures['pearson_r']:.4f}", f"{low:.3f} to {high:.3f}"]
        assert model[7:9] == [str(private["n"]), f"{private['pearson_r']:.4f}"]
        assert ridge[4] == ridge[6] == "-"
    assert {path.name for path in (folder / "plots").iterdir()} == {"all.png", "random.png", "SNVs.png"}
    assert f"note: {stored['note']}" in printed and "note on the baseline: " in printed


def test_split_and_undefined_figures(folder, capsys):
    pd.DataFrame({"row_id": np.arange(60) * 10, "prediction": 1.0}).to_csv("constant.csv", index=False)
    script.main(arguments(predictions="constant.csv", split="validation"))
    printed = capsys.readouterr().out
    assert "30 predictions of rows that are not scored were ignored" in printed
    assert "no official score: split validation" in printed
    assert cells(printed)[2][2:5] == ["30", "-", "-"]
    stored = json.loads((folder / "s.json").read_text())
    assert stored["run"]["split"] == "validation" and stored["all"]["all"]["pearson_r"] is None


def test_model_predicts_the_rows(folder, tiny_folder):
    table = pd.read_parquet("table.parquet")
    table["sequence"] = table["sequence"].str[:20]
    table.to_parquet("table.parquet")
    options = EvaluationOptions(batch_size=7)
    found = evaluate_files("table.parquet", "s.json", model=tiny_folder, split="train", options=options)
    predicted = as_predictor(tiny_folder).predict(table["sequence"][:30].tolist())
    table[:30].assign(prediction=predicted).to_csv("predictions.csv", index=False)
    expected = evaluate_files("table.parquet", "p.json", predictions="predictions.csv", split="train")
    assert found["run"]["model"] == str(tiny_folder)
    for name, figures in expected["all"].items():
        assert found["all"][name] == pytest.approx(figures, rel=1e-5)


def test_line_of_the_official_scores():
    figures = {"n": 3000, "pearson_r": 0.9123, "spearman_rho": 0.5, "pearson_r_interval": [0.897, 0.925]}
    figures["coverage_90"] = 0.666
    text = format_table({"all": {"all": figures, "pearson_score": 0.7, "spearman_score": 0.6}})
    assert cells(text)[2] == ["all", "model", "3,000", "0.9123", "0.897 to 0.925", "0.5000", "66.6%"]
    assert cells(text)[3] == ["official score", "model", "", "0.7000", "-", "0.6000", "-"]
    assert len({len(line) for line in text.splitlines()}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "absent.tsv"}, "absent.tsv"),
        ({"predictions": "absent.csv"}, "absent.csv"),
        ({"pairs": "absent.parquet"}, "absent.parquet"),
        ({"baseline_train": "absent.tsv"}, "absent.tsv"),
        ({"output": "."}, "is a folder"),
        ({"plots": "table.parquet"}, "name a folder for the plots"),
        ({"calibrate": ""}, "pass --model FOLDER"),
        ({"intervals": 1}, "at least 2"),
        ({"intervals": 9}, "no column cluster"),
        (
            {"intervals": 9, "cluster_column": "row_id", "pairs": "pairs.parquet"},
            "pairs have ends in different clusters",
        ),
        ({"predictions": None, "model": "absent/model/x", "intervals": 9}, "no column cluster"),
        ({"predictions": None, "model": "absent/model/x"}, "absent/model/x"),
    ],
)
def test_one_error_and_no_output(folder, changes, message):
    flags = ["--calibrate"] if "calibrate" in changes else []
    with pytest.raises(SystemExit) as caught:
        script.main(arguments(**changes) + flags)
    assert str(caught.value).startswith("error: ") and "\n" not in str(caught.value)
    assert message in str(caught.value)
    assert not (folder / "s.json").exists()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_unusable_sequences_are_named(tiny_folder, folder, kind):
    rows = {"row_id": list("abcde"), "tested": ["ACGT", "", "NA", "-", "ACGX"], "activity": range(5), "prediction": 1.0}
    frame, path = pd.DataFrame(rows), folder / f"t.{kind}"
    frame.replace("", None).to_parquet(path) if kind == "parquet" else frame.to_csv(path, index=False)
    for options in ({"model": tiny_folder}, {"predictions": path, "baseline_train": path}):
        with pytest.raises(SystemExit) as caught:
            script.main(arguments(table=path, sequence_column="tested", **({"predictions": None} | options)))
        assert str(caught.value) == (
            "error: 4 of 5 sequences of the table cannot be used (row_id b: empty sequence, row_id c: missing sequence "
            "'NA', row_id d: missing sequence '-')"
        )
    assert not (folder / "s.json").exists()


@pytest.mark.parametrize("changes", [{"model": "some/model"}, {"predictions": None}])
def test_either_a_model_or_predictions_are_required(folder, changes, capsys):
    with pytest.raises(SystemExit) as caught:
        script.main(arguments(**changes))
    assert caught.value.code == 2
    assert "--model" in capsys.readouterr().err
