"""Mutagenesis of files, against that of sequences in memory."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from matplotlib.figure import Figure

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.analysis.mutagenesis import (
    saturation_mutagenesis,
    window_scan,
)
from modeling_macaron.analysis.mutagenesis_file import mutagenesis_file
from tests.analysis.test_mutagenesis import assert_same

SCRIPT = Path(__file__).parents[2] / "scripts" / "mutagenesis.py"
ROWS = ["ACGTACGTAC", "AC!T", "", "accaGNggt", "A" * 21, "TTTT"]
REASONS = {
    2: "letter '!' at position 3 (counted from 1) is not DNA",
    3: "empty sequence",
    5: "21 nt are more than the 20 that the model reads",
}


def write_rows(path, sequences):
    frame = pd.DataFrame({"gene": [f"g{i}" for i in range(len(sequences))], "sequence": sequences})
    if path.name.endswith(".fa"):
        path.write_text("".join(f">p{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
    elif path.name.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if ".csv" in path.name else "\t", index=False)
    return path


def read_lines(path):
    if path.name.endswith(".parquet"):
        return pd.read_parquet(path)
    frame = pd.read_csv(path, sep="\t" if path.name.endswith(".tsv") else ",", keep_default_na=False, na_values=[""])
    return frame.assign(problem=frame["problem"].fillna(""))


@pytest.mark.parametrize("output", ["out.parquet", "out.csv", "out.tsv"])
@pytest.mark.parametrize("source", ["in.tsv", "in.csv.gz", "in.parquet", "in.fa"])
def test_file_has_a_line_for_each_mutant_in_order(model, tmp_path, source, output):
    path = write_rows(tmp_path / source, ROWS)
    result = mutagenesis_file(model, path, tmp_path / output, batch_size=2)
    assert result == (6, 30 + 1 + 1 + 7 + 1 + 12, 3, 0, ())
    lines = read_lines(tmp_path / output)
    if source.endswith(".fa"):
        assert lines.pop("name").tolist() == [f"p{row - 1}" for row in lines["row"]]
    assert list(lines) == ["row", "position", "ref", "alt", "predicted_reference", "delta", "problem"]
    assert lines["row"].tolist() == [1] * 30 + [2, 3] + [4] * 7 + [5] + [6] * 12
    for row, reason in REASONS.items():
        (line,) = lines[lines["row"] == row].to_dict("records")
        assert line.pop("problem") == reason
        assert line.pop("row") == row
        assert all(pd.isna(value) for value in line.values())
    fine = lines[~lines["row"].isin(REASONS)]
    assert (fine["problem"] == "").all()
    expected = [
        (row, position + 1, letter, base, result.reference, result.deltas[position, "ACGT".index(base)])
        for row, result in zip((1, 4, 6), saturation_mutagenesis(model, [ROWS[0], ROWS[3], ROWS[5]]), strict=True)
        for position, letter in enumerate(result.sequence) for base in "ACGT" if base != letter
    ]  # fmt: skip
    for name, values in zip(lines.columns[:-1], zip(*expected, strict=True), strict=True):
        if name in ("predicted_reference", "delta"):
            assert_same(fine[name].to_numpy(), values)
        else:
            assert fine[name].tolist() == list(values), name


def test_windows_of_a_file(model, tmp_path):
    path = write_rows(tmp_path / "in.tsv", ["ACGTACGTAC", "ACG", "", "TTGCA"])
    options = {"window": 4, "step": 3, "num_shuffles": 2, "seed": 7}
    assert mutagenesis_file(model, path, tmp_path / "out.parquet", **options) == (4, 3 + 1 + 1 + 1, 2, 0, ())
    lines = pd.read_parquet(tmp_path / "out.parquet")
    assert list(lines) == ["row", "start", "end", "letters", "predicted_reference", "delta", "problem"]
    assert lines["problem"].tolist() == [
        "",
        "",
        "",
        "3 nt are fewer than the 4 that a window needs",
        "empty sequence",
        "",
    ]
    fine = lines[lines["problem"] == ""]
    assert fine["start"].tolist() == [1, 4, 7, 1]
    assert fine["end"].tolist() == [4, 7, 10, 4]
    assert fine["letters"].tolist() == ["ACGT", "TACG", "GTAC", "TTGC"]
    scans = list(window_scan(model, ["ACGTACGTAC", "TTGCA"], **options))
    assert_same(fine["delta"].to_numpy(), np.concatenate([scan.deltas for scan in scans]))
    assert_same(fine["predicted_reference"].to_numpy(), [scans[0].reference] * 3 + [scans[1].reference])


def test_file_is_written_while_it_is_read(model, tmp_path, forwards):
    path = write_rows(tmp_path / "in.parquet", ["ACGTACGTAC"] * 20)
    mutagenesis_file(model, path, tmp_path / "out.parquet", batch_size=8)
    assert pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 3, "8 + 8 + 4 rows at a time"
    assert forwards == [8] * 31 * 2 + [8] * 15 + [4]


def test_error_of_the_model_leaves_nothing(tiny_folder, tmp_path):
    path = write_rows(tmp_path / "in.parquet", ["ACGT"] * 40)
    broken, calls = MacaronForExpressionPrediction.from_pretrained(tiny_folder), []

    def fail(*_):
        calls.append(1)
        if len(calls) == 60:
            raise RuntimeError("out of memory")

    broken.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        mutagenesis_file(broken, path, tmp_path / "out.parquet", batch_size=4, plots=tmp_path / "plots")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_figures_of_the_first_rows(model, tmp_path):
    path = write_rows(tmp_path / "in.tsv", ROWS)
    folder = tmp_path / "plots"
    mutagenesis_file(model, path, tmp_path / "out.tsv", plots=folder, num_plots=2, batch_size=1)
    assert sorted(file.name for file in folder.iterdir()) == [
        "row_1_heatmap.png", "row_1_logo.png", "row_4_heatmap.png", "row_4_logo.png"
    ]  # fmt: skip
    with pytest.raises(FileExistsError, match="holds figures already"):
        mutagenesis_file(model, path, tmp_path / "windows.tsv", plots=folder, window=2, method="n")
    with pytest.raises(FileExistsError, match="is not a folder"):
        mutagenesis_file(model, path, tmp_path / "windows.tsv", plots=path)
    assert not (tmp_path / "windows.tsv").exists()
    (folder / "row_mine.png").write_text("not one of ours")
    options = {"window": 2, "method": "n", "overwrite": True, "num_plots": 1, "plot_format": "svg"}
    mutagenesis_file(model, path, tmp_path / "out.tsv", plots=folder, **options)
    assert sorted(file.name for file in folder.iterdir()) == ["row_1_windows.svg", "row_mine.png"], "none is stale"


def test_rows_and_figures_have_names_and_one_scale(model, tmp_path, monkeypatch):
    path = write_rows(tmp_path / "in.csv", ROWS)
    drawn = []
    monkeypatch.setattr(
        "modeling_macaron.analysis.sequence_plots.mutagenesis_heatmap",
        lambda result, **options: drawn.append((result, options)) or Figure(),
    )
    options = {"plots": tmp_path / "plots", "name_column": "gene", "same_scale": True}
    mutagenesis_file(model, path, tmp_path / "out.tsv", **options)
    lines = read_lines(tmp_path / "out.tsv")
    assert list(lines)[:3] == ["row", "name", "position"]
    assert (lines["name"] == [f"g{row - 1}" for row in lines["row"]]).all()
    assert [options["title"] for _, options in drawn] == ["g0", "g3", "g5"]
    largest = max(np.abs(result.deltas).max() for result, _ in drawn)
    assert [options["limit"] for _, options in drawn] == [largest] * 3
    with pytest.raises(ValueError, match="has no column 'absent' of names: its columns are 'gene', 'sequence'"):
        mutagenesis_file(model, path, tmp_path / "other.tsv", name_column="absent")
    assert not (tmp_path / "other.tsv").exists()


def test_strict_stops_at_the_first_bad_row_or_line(model, tmp_path):
    path = write_rows(tmp_path / "in.csv", ROWS)
    with pytest.raises(ValueError, match=r"in\.csv, line 3: letter '!' at position 3"):
        mutagenesis_file(model, path, tmp_path / "out.tsv", strict=True)
    path.write_text("gene,sequence\na,ACGT\nb,AC,GT\nc,\n")
    with pytest.raises(ValueError, match=r"in\.csv, line 3: 3 columns instead of 2"):
        mutagenesis_file(model, path, tmp_path / "out.tsv", strict=True)
    path.write_text("gene,sequence\na,ACGT\nb,\nc,AC,GT\n")
    with pytest.raises(ValueError, match=r"in\.csv, line 3: empty sequence"):
        mutagenesis_file(model, path, tmp_path / "out.tsv", strict=True)
    assert not (tmp_path / "out.tsv").exists()


def test_existing_output_is_replaced_only_when_asked(model, tmp_path):
    path = write_rows(tmp_path / "in.csv", ["ACGT"])
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        mutagenesis_file(model, path, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "mine"
    mutagenesis_file(model, path, tmp_path / "out.csv", overwrite=True)
    assert len(pd.read_csv(tmp_path / "out.csv")) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.tsv", "out.tsv"], "there is no file"),
        (["in.tsv", "out.xyz"], "unknown kind of output"),
        (["in.tsv", "in.tsv"], "exists already"),
        (["in.tsv", "out.tsv", "--window", "1"], "1 nt cannot be shuffled"),
        (["in.tsv", "out.tsv", "--batch_size", "0"], "batch_size must be at least 1"),
        (["header.tsv", "out.tsv"], "has no rows"),
        (["in.tsv", "out.tsv", "--plots", "plots", "--num_plots", "0"], "num_plots must be at least 1"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(tiny_folder, tmp_path, monkeypatch, arguments, message):
    write_rows(tmp_path / "in.tsv", ["ACGT"])
    (tmp_path / "header.tsv").write_text("sequence\texpression\n")
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT))["main"]([str(tiny_folder), *arguments])
    text = str(stop.value.code)  # what the interpreter prints before it exits with 1
    assert text.startswith("error: ") and message in text and "\n" not in text
    assert {path.name for path in tmp_path.iterdir()} == before


def test_script_reports_what_it_wrote(tiny_folder, tmp_path):
    write_rows(tmp_path / "in.csv", ["ACGT", "XXXX"])
    options = ["--window", "3", "--method", "delete", "--plots", "plots", "--num_plots", "1"]
    command = [sys.executable, str(SCRIPT), str(tiny_folder), "in.csv", "out.tsv", *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "3 lines for 2 rows written to out.tsv" in result.stdout
    assert "1 row could not be predicted" in result.stdout
    assert pd.read_csv(tmp_path / "out.tsv", sep="\t")["letters"].tolist()[:2] == ["ACG", "CGT"]
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["row_1_windows.png"]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("error: out.tsv exists already")
