"""Design of files, against `design` for sequences in memory."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from test_design import START, STARTS

from modeling_macaron.analysis.constraints import Constraints
from modeling_macaron.analysis.design import SearchOptions, design
from modeling_macaron.analysis.design_file import design_file
from modeling_macaron.analysis.predict import predict
from modeling_macaron.loading import load_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "design.py"


@pytest.fixture(scope="module")
def model(tiny_folder):
    """The tiny model in float64."""
    return load_model(tiny_folder, dtype="float64")[0]


@pytest.mark.parametrize("name", ["out.tsv", "out.csv", "out.parquet"])
def test_file_has_a_line_for_each_design(model, tmp_path, name):
    source = tmp_path / "starts.fa"
    source.write_text("".join(f">s{i}\n{start}\n" for i, start in enumerate(STARTS)))
    options, training = SearchOptions(max_edits=3, num_designs=2), {"training_sequences": [START]}
    paths = {"starts": source, "fasta": tmp_path / "out.fa"}
    result = design_file(model, tmp_path / name, **paths, options=options, **training)
    expected = design(model, STARTS, **options._asdict(), **training)
    changes = [found.expression - found.start_expression for found in expected]
    out_of_range = sum(found.out_of_range for found in expected)
    assert result[:8] == (3, len(expected), 0, 0, out_of_range, pytest.approx(np.median(changes)), 0, ())
    if name.endswith(".parquet"):
        lines = pd.read_parquet(tmp_path / name)
    else:
        lines = pd.read_csv(tmp_path / name, sep="\t" if name.endswith(".tsv") else ",")
    assert lines["row"].tolist() == [1, 1, 2, 2, 3, 3]
    assert lines["name"].tolist() == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert lines["problem"].fillna("").tolist() == [""] * 6
    assert lines["rank"].tolist() == [1, 2] * 3
    for field in ("start", "sequence", "nearest_training_distance", "out_of_range"):
        assert lines[field].tolist() == [getattr(found, field) for found in expected]
    np.testing.assert_allclose(lines["expression"], [found.expression for found in expected], rtol=1e-9)
    np.testing.assert_allclose(lines["start_expression"], [found.start_expression for found in expected], rtol=1e-9)
    assert lines["edits"][0] == " ".join(f"{ref}{i + 1}{alt}" for i, ref, alt in expected[0].edits)
    assert lines["num_edits"].tolist() == [len(found.edits) for found in expected]
    records = (tmp_path / "out.fa").read_text().splitlines()
    assert records[1::2] == [found.sequence for found in expected]
    assert records[0] == f">s0_1_1 expression={expected[0].expression:.6g}"


BAD = {
    2: (START.replace("A", "N", 1), "is none of A, C, G and T"),
    4: ("", "empty sequence"),
    5: ("ACGTXC", "letter 'X' at position 5 (counted from 1) is not DNA"),
    6: ("A" * 99, "99 nt are more than the 20 that the model reads"),
    7: ("GAATTC" + START[6:], "breaks a constraint: it has the forbidden site GAATTC at position 1 (counted from 1)"),
}


def test_starts_that_cannot_be_used_keep_their_place(model, tmp_path):
    starts = [BAD[row][0] if row in BAD else START for row in range(1, 9)]
    pd.DataFrame({"sequence": starts, "gene": list("abcdefgh")}).to_csv(tmp_path / "in.csv", index=False)
    options = {"options": SearchOptions(max_edits=1), "constraints": Constraints(forbidden_sites=("GAATTC",))}
    paths = {"starts": tmp_path / "in.csv", "fasta": tmp_path / "out.fa"}
    result = design_file(model, tmp_path / "out.csv", **paths, name_column="gene", **options)
    assert result[:3] == (8, 3, 5)
    lines = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert lines["row"].tolist() == list(range(1, 9)) and lines["name"].tolist() == list("abcdefgh")
    for row, start, problem, sequence in zip(
        lines["row"], lines["start"], lines["problem"], lines["sequence"], strict=True
    ):
        assert start == starts[row - 1]
        assert (problem == "") == (sequence != "") == (row not in BAD)
        assert row not in BAD or BAD[row][1] in problem
    names = [line for line in (tmp_path / "out.fa").read_text().splitlines() if line.startswith(">")]
    assert [name.split()[0] for name in names] == [">a_1_1", ">c_3_1", ">h_8_1"]
    with pytest.raises(ValueError, match=r"in\.csv, line 3: position \d+ \(counted from 1\) is none of A, C, G and T"):
        design_file(model, tmp_path / "strict.csv", starts=tmp_path / "in.csv", strict=True, **options)
    assert not (tmp_path / "strict.csv").exists()


def test_file_is_designed_in_a_stream_and_does_not_depend_on_its_neighbours(model, tmp_path):
    rows = [START[shift:] + START[:shift] for shift in range(20)] * 2
    pd.DataFrame({"sequence": rows}).to_csv(tmp_path / "in.tsv", sep="\t", index=False)
    options = SearchOptions(max_edits=2, method="evolution", population=6, generations=2, seed=5)
    design_file(model, tmp_path / "out.parquet", starts=tmp_path / "in.tsv", options=options)
    assert pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 3, "16 + 16 + 8 starts at a time"
    sequences = pd.read_parquet(tmp_path / "out.parquet")["sequence"].tolist()
    assert sequences[:20] == sequences[20:]
    assert sequences[7] == design(model, rows[7:8], **options._asdict())[0].sequence


def test_expression_of_a_design_is_that_of_prediction(model, tmp_path):
    design_file(model, tmp_path / "out.csv", num_starts=5, length=18, options=SearchOptions(max_edits=3))
    lines = pd.read_csv(tmp_path / "out.csv")
    for column, text in (("expression", "sequence"), ("start_expression", "start")):
        np.testing.assert_allclose(lines[column], predict(model, lines[text].tolist()), rtol=1e-5)


def test_error_of_the_model_leaves_nothing(model, tmp_path):
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("out of memory")

    hook = model.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            design_file(model, tmp_path / "out.tsv", fasta=tmp_path / "out.fa", num_starts=1, batch_size=8)
    finally:
        hook.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out.tsv", "--starts", "absent.tsv"], "there is no file"),
        (["out.xyz", "--random", "1"], "unknown kind of output"),
        (["in.tsv", "--random", "1"], "in.tsv exists already"),
        (["out.tsv", "--random", "1", "--fasta", "in.tsv"], "in.tsv exists already"),
        (["out.tsv", "--random", "1", "--fasta", "out.tsv"], "cannot be both"),
        (["out.tsv", "--random", "0"], "num_starts must be at least 1"),
        (
            ["out.tsv", "--starts", "in.tsv", "--gc_range", "0.7", "0.9", "--strict"],
            "in.tsv, line 2: breaks a constraint",
        ),
        (["out.tsv", "--starts", "in.tsv", "--name_column", "gene"], "has no column 'gene' of names"),
        (["out.tsv", "--starts", "in.tsv", "--gc_range", "0.9", "0.7"], "the smaller first"),
        (["out.tsv", "--starts", "in.tsv", "--forbid", "QQ"], "not DNA in IUPAC codes"),
        (["out.tsv", "--starts", "header.tsv"], "has no rows"),
        (["out.tsv", "--random", "1", "--training", "header.tsv"], "no training sequence"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(tiny_folder, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "in.tsv").write_text("sequence\nACGTACGT\n")
    (tmp_path / "header.tsv").write_text("sequence\texpression\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT))["main"]([str(tiny_folder), *arguments, "--max_edits", "1"])
    text = str(stop.value.code)  # what the interpreter prints before it exits with 1
    assert text.startswith("error: ") and message in text and "\n" not in text
    assert {path.name for path in tmp_path.iterdir()} == {"in.tsv", "header.tsv"}
    assert (tmp_path / "in.tsv").read_text() == "sequence\nACGTACGT\n"


@pytest.mark.parametrize(
    "arguments", [["--target", "up"], ["--fix", "a"], ["--fix", "9-4"], ["--fix", "0-3"], ["--starts", "in.tsv"]]
)
def test_arguments_that_are_none_are_refused(tiny_folder, tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT))["main"]([str(tiny_folder), "out.tsv", "--random", "1", *arguments])
    assert stop.value.code == 2 and "error:" in capsys.readouterr().err


def test_script_from_end_to_end(tiny_folder, tmp_path):
    (tmp_path / "in.csv").write_text(f"sequence\n{START}\nACGTACGTAC\n")
    command = [sys.executable, str(SCRIPT), str(tiny_folder), "out.tsv", "--starts", "in.csv", "--target", "12.5",
               "--max_edits", "3", "--fix", "1-4", "7", "--forbid", "GAATTC", "GGGGG", "--gc_range", "0.2", "0.8",
               "--training", "in.csv", "--fasta", "out.fa"]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert "2 designs for 2 starts written to out.tsv" in result.stdout
    assert "predicted change in the median: " in result.stdout
    lines = pd.read_csv(tmp_path / "out.tsv", sep="\t")
    constraints = Constraints((0.2, 0.8), ("GAATTC", "GGGGG"), (0, 1, 2, 3, 6))
    expected = design(tiny_folder, [START, "ACGTACGTAC"], target=12.5, max_edits=3, constraints=constraints)
    assert lines["sequence"].tolist() == [found.sequence for found in expected]
    assert lines["nearest_training_distance"].tolist() == [len(found.edits) for found in expected]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("error: out.tsv exists already")


def test_script_says_what_an_empty_distance_means(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [str(tiny_folder), "out.csv", "--random", "1", "--max_edits", "1", "--length", "9"]
    runpy.run_path(str(SCRIPT))["main"](arguments)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 design for 1 start written to out.csv"
    note = "`nearest_training_distance` is empty: --training FILE compares the designs with the training sequences"
    assert note in lines
    (tmp_path / "out.csv").rename("training.csv")
    runpy.run_path(str(SCRIPT))["main"]([*arguments, "--training", "training.csv"])
    assert not any("nearest_training_distance" in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("target", [60.0, 7.5])
def test_designs_that_reach_a_target_are_counted(model, tmp_path, target):
    options = SearchOptions(target, max_edits=4, num_designs=2)
    result = design_file(model, tmp_path / "out.csv", num_starts=3, length=18, options=options)
    expression = pd.read_csv(tmp_path / "out.csv")["expression"]
    distance = (expression - target).abs()
    assert result.num_reached == (distance <= 0.05 * model.config.expression_std).sum()
    assert (result.num_reached == 0) == (target == 60.0)
    assert result.nearest == pytest.approx(expression[distance.argmin()])


def test_script_says_how_long_it_takes_and_how_near_it_came(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text(f"sequence\n{START}\nACGTACGTAC\n")
    main = runpy.run_path(str(SCRIPT))["main"]
    main([str(tiny_folder), "out.csv", "--starts", "in.csv", "--max_edits", "2", "--target", "60"])
    printed = capsys.readouterr()
    nearest = pd.read_csv(tmp_path / "out.csv")["expression"].max()
    assert f"0 of 2 reached 60; nearest {nearest:.2f}" in printed.out.splitlines()
    most = 2 + 2 * 3 * (20 + 10)
    assert f"at most {most} predictions, which take about " in printed.err
    assert "predictions: 100%|" in printed.err, "what was not needed does not count in the end"
    main([str(tiny_folder), "out.csv", "--starts", "in.csv", "--max_edits", "2", "--overwrite"])
    assert "reached" not in capsys.readouterr().out


def test_command_ranks_by_the_bound(make_model, tiny_tokenizer, tmp_path):
    folder, output = tmp_path / "tiny-uncertain", tmp_path / "out.csv"
    model = make_model(expression_bins=(-2.0, 0.0, 2.0), interval_quantiles={"90": 3.0})
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    (tmp_path / "starts.csv").write_text("sequence\n" + "\n".join(STARTS) + "\n")
    command = [str(folder), str(output), "--starts", str(tmp_path / "starts.csv"), "--max_edits", "1"]
    runpy.run_path(str(SCRIPT))["main"]([*command, "--rank_by", "bound"])
    lines = pd.read_csv(output)
    assert lines.columns.tolist()[6:9] == ["expression_low", "expression_high", "num_edits"]
    expected = design(folder, STARTS, max_edits=1, rank_by="bound")
    assert lines["sequence"].tolist() == [found.sequence for found in expected]
    np.testing.assert_allclose(lines["expression_low"], [found.expression_low for found in expected], rtol=1e-6)
