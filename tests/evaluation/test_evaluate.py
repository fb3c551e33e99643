"""The command line of the evaluation."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tokenization import KmerTokenizer

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("evaluate_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    sequences = ["".join(random.choice(list("ACGT"), 80)) for _ in range(30)]
    table = pd.DataFrame({"row_id": range(30), "sequence": sequences, "activity": random.normal(size=30)})
    table.assign(split=["train"] * 20 + ["validation"] * 10).to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    predictions = pd.DataFrame({"row_id": range(30), "prediction": table["activity"] * 2 + 1})
    predictions.to_csv(tmp_path / "predictions.csv", index=False)
    return tmp_path


def arguments(folder, **changes):
    options = {"predictions": folder / "predictions.csv", "table": folder / "table.tsv", "output": folder / "s.json"}
    return [text for name, value in (options | changes).items() if value for text in (f"--{name}", str(value))]


def test_official_figures_in_a_process_of_its_own(shared, tmp_path):
    """As a user calls it: the script's folder comes first on the path, and holds a file named like a library."""
    data, fixture = shared / "data" / "dream2022", shared / "fixtures" / "dream_score"
    options = arguments(
        tmp_path, predictions=fixture / "predictions.parquet", table=data / "measured_library.parquet",
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
        assert list(stored[part]) == list(categories)
        for name, figures in categories.items():
            assert stored[part][name] == pytest.approx(figures, abs=1e-9)


def test_split_prints_its_table_and_notes(script, files, capsys):
    script.main(arguments(files, split="validation", baseline_train=files / "table.tsv", plots=files / "plots"))
    printed = capsys.readouterr().out
    assert "| all      | model     | 10 |    1.0000 |       1.0000 |" in printed
    assert "| all      | ridge     | 10 |" in printed
    assert "no official score" in printed
    assert "20 predictions of rows that are not scored were ignored" in printed
    assert (files / "plots" / "all.png").is_file()
    stored = json.loads((files / "s.json").read_text())
    assert stored["baseline"]["training_rows"] == 20
    assert stored["run"]["split"] == "validation"


def test_model_is_asked_for_the_rows_of_the_table(script, files, monkeypatch):
    predict = importlib.import_module("modeling_macaron.analysis.predict")
    asked = {}

    def fake(model, strands, batch_size, progress):
        asked.update(model=model, number=len(strands), batch_size=batch_size)
        return (strands == 0).sum(axis=1, keepdims=True).astype(float)

    monkeypatch.setattr(predict, "predict_all", fake)
    monkeypatch.setattr("modeling_macaron.loading.load_model", lambda model: (model, KmerTokenizer()))
    script.main(arguments(files, predictions=None, model="some/model", split="validation", batch_size=7))
    assert asked == {"model": "some/model", "number": 10, "batch_size": 7}
    assert json.loads((files / "s.json").read_text())["run"]["model"] == "some/model"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "absent.tsv"}, "absent.tsv: no such file"),
        ({"predictions": "absent.csv"}, "absent.csv: no such file"),
        ({"pairs": "absent.parquet"}, "absent.parquet: no such file"),
        ({"baseline_train": "absent.tsv"}, "absent.tsv"),
        ({"split": "test"}, "no row of split test"),
        ({"output": "."}, "is a folder"),
    ],
)
def test_one_clear_error_and_no_output(script, files, changes, message):
    with pytest.raises(SystemExit) as caught:
        script.main(arguments(files, **changes))
    assert str(caught.value).startswith("error: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (files / "s.json").exists()


@pytest.mark.parametrize("changes", [{"model": "some/model"}, {"predictions": None}])
def test_wants_either_a_model_or_predictions(script, files, changes, capsys):
    with pytest.raises(SystemExit) as caught:
        script.main(arguments(files, **changes))
    assert caught.value.code == 2
    assert "--model" in capsys.readouterr().err
