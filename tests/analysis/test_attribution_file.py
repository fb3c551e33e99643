"""Attribution of files, against the functions for sequences in memory."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from modeling_macaron.analysis.attribution import gradient_x_input, integrated_gradients
from modeling_macaron.analysis.attribution_file import attribution_file
from modeling_macaron.analysis.predict import predict
from modeling_macaron.loading import load_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "attribution.py"
ROWS = ["ACGTACGTAC", "AC!T", "", "accaGNggt", "A" * 21, "TTTT"]
FINE = [ROWS[0], ROWS[3], ROWS[5]]
PROBLEMS = {
    2: "letter '!' at position 3 (counted from 1) is not DNA",
    3: "empty sequence",
    5: "21 nt are more than the 20 that the model reads",
}
COLUMNS = ["row", "position", "base", "attribution", "predicted_expression", "predicted_baseline", "problem"]


@pytest.fixture(scope="module")
def model(tiny_folder):
    """The tiny model in float64."""
    return load_model(tiny_folder, dtype="float64")[0]


@pytest.fixture
def rows(tmp_path):
    """A table with good and bad rows."""
    pd.DataFrame({"id": list("abcdef"), "sequence": ROWS}).to_csv(tmp_path / "in.tsv", sep="\t", index=False)
    return tmp_path / "in.tsv"


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize(
    ("options", "function"),
    [
        ({"steps": 5}, lambda *given: integrated_gradients(*given, steps=5)),
        ({"steps": 3, "baseline": "uniform"}, lambda *given: integrated_gradients(*given, steps=3, baseline="uniform")),
        ({"method": "gradient_x_input"}, gradient_x_input),
    ],
)
def test_file_has_a_line_for_each_base(model, rows, tmp_path, options, function, batch_size):
    result = attribution_file(model, rows, tmp_path / "out.parquet", batch_size=batch_size, **options)
    assert result == (6, 10 + 1 + 1 + 2 + 1 + 4, 3, 0, ())
    lines = pd.read_parquet(tmp_path / "out.parquet")
    assert list(lines) == COLUMNS
    assert lines["row"].tolist() == [1] * 10 + [2, 3] + [4] * 2 + [5] + [6] * 4
    expected = function(model, FINE)
    fine = lines[lines["problem"] == ""]
    assert "".join(fine["base"]) == "".join(expected.sequences) == "ACGTACGTACGNTTTT"
    assert fine["position"].tolist() == [*range(1, 11), 1, 2, 1, 2, 3, 4]
    sizes = list(map(len, expected.sequences))
    np.testing.assert_allclose(fine["attribution"], np.concatenate(expected.per_base), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fine["predicted_expression"], np.repeat(predict(model, FINE), sizes), rtol=1e-9)
    np.testing.assert_allclose(fine["predicted_baseline"], np.repeat(expected.baseline_expression, sizes), rtol=1e-9)
    for row, problem in PROBLEMS.items():
        (line,) = lines[lines["row"] == row].to_dict("records")
        assert (line.pop("row"), line.pop("problem")) == (row, problem)
        assert all(pd.isna(value) for value in line.values())


def test_sums_are_the_difference_from_the_baseline(model, rows, tmp_path):
    attribution_file(model, rows, tmp_path / "out.csv", steps=400)
    lines = pd.read_csv(tmp_path / "out.csv").dropna(subset="base")
    for _, some in lines.groupby("row"):
        difference = some["predicted_expression"].iloc[0] - some["predicted_baseline"].iloc[0]
        assert some["attribution"].sum() == pytest.approx(difference, rel=0.01, abs=1e-4)


def test_file_is_written_while_it_is_read(model, tmp_path):
    (tmp_path / "in.fa").write_text("".join(f">p{number}\nACGTAC\n" for number in range(10)))
    attribution_file(model, tmp_path / "in.fa", tmp_path / "out.parquet", batch_size=4, steps=2)
    assert pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 3, "4 + 4 + 2 rows at a time"
    lines = pd.read_parquet(tmp_path / "out.parquet")
    assert lines["name"].tolist() == [f"p{number}" for number in range(10) for _ in range(6)]


def test_logos_have_names(model, rows, tmp_path):
    options = {"steps": 2, "plots": tmp_path / "logos", "num_plots": 2, "plot_format": "svg", "name_column": "id"}
    attribution_file(model, rows, tmp_path / "out.tsv", same_scale=True, **options)
    paths = sorted((tmp_path / "logos").iterdir())
    assert [path.name for path in paths] == ["row_1_attribution.svg", "row_4_attribution.svg"]
    with pytest.raises(FileExistsError, match="holds figures already"):
        attribution_file(model, rows, tmp_path / "again.tsv", **options)
    assert not (tmp_path / "again.tsv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.tsv", "out.tsv"], "there is no file"),
        (["in.tsv", "out.xyz"], "unknown kind of output"),
        (["in.tsv", "in.tsv"], "exists already"),
        (["in.tsv", "out.tsv", "--steps", "0"], "steps must be at least 1"),
        (["in.tsv", "out.tsv", "--batch_size", "0"], "batch_size must be at least 1"),
        (["in.tsv", "out.tsv", "--strict"], "in.tsv, line 3: letter '!' at position 3"),
        (["in.tsv", "out.tsv", "--name_column", "gene"], "has no column 'gene' of names"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(tiny_folder, rows, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT))["main"]([str(tiny_folder), *arguments])
    text = str(stop.value.code)
    assert text.startswith("error: ") and message in text and "\n" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["in.tsv"]


def test_unknown_method_is_refused(model, rows, tmp_path):
    with pytest.raises(ValueError, match="method must be one of integrated_gradients, gradient_x_input"):
        attribution_file(model, rows, tmp_path / "out.tsv", method="deep_lift")


def test_script_reports_what_it_wrote(tiny_folder, rows, tmp_path):
    command = [sys.executable, str(SCRIPT), str(tiny_folder), "in.tsv", "out.tsv", "--method", "gradient_x_input"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "19 lines for 6 rows written to out.tsv" in result.stdout
    assert "3 rows could not be predicted" in result.stdout
