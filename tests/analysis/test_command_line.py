"""Errors and summaries of the analysis commands."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.utils
import numpy as np
import pytest
import transformers.utils.logging
from tqdm.auto import tqdm

from modeling_macaron.analysis import command_line
from modeling_macaron.analysis.constraints import Constraints
from modeling_macaron.analysis.design import SearchOptions, design
from modeling_macaron.analysis.files import FileResult
from modeling_macaron.io.streams import progress_bar
from modeling_macaron.io.tables import open_table
from modeling_macaron.predictor import Predictor
from tests.analysis.cases import error_of, names_in, read, run_script

ROOT = Path(__file__).parents[2]
PAIRS = "reference_sequence\talternative_sequence\n"
FILES = {
    "in.tsv": "sequence\texpression\nACGTACGT\t1\n", "in.xyz": "sequence\nACGT\n", "empty.tsv": "",
    "header.tsv": "sequence\texpression\n", "done.tsv": "sequence\tpredicted_expression\nACGT\t1\n",
    "bad.tsv": "sequence\nACGT\nAC!T\n", "malformed.tsv": "name\tsequence\nc\n", "pairs.tsv": PAIRS + "ACGT\tACGA\n",
    "bad_pairs.tsv": PAIRS + "ACGT\tX\n", "done_pairs.tsv": PAIRS[:-1] + "\tdelta\nACGT\tACGA\t1\n",
    "pairs.fa": ">a\nACGT\n", "broken.parquet": "PAR1", "v.vcf": "##fileformat=VCFv4.2\n",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    rows = "".join(f"{base * (i % 19 + 1)}\t{i}\n" for i, base in enumerate("ACGT" * 2500))
    (tmp_path / "broken.tsv.gz").write_bytes(gzip.compress(("sequence\tvalue\n" + rows).encode())[:-200])
    monkeypatch.chdir(tmp_path)
    return tmp_path


MISTAKES = [
    ("predict absent.tsv out.tsv", "there is no file"),
    ("predict in.xyz out.tsv", "unknown kind of file"),
    ("predict in.tsv out.xyz", "unknown kind of output"),
    ("predict empty.tsv out.tsv", "empty"),
    ("predict broken.tsv.gz out.tsv", "cannot be read"),
    ("predict done.tsv out.tsv", "already has the column predicted_expression, which the output adds: rename it in"),
    ("predict malformed.tsv out.tsv", "has no row that can be read; line 2: 1 column instead of 2: 'c'"),
    ("predict bad.tsv out.tsv --strict", "bad.tsv, line 3: letter '!' at position 3"),
    ("predict in.tsv out.tsv --device nowhere", "cannot be used"),
    ("mutagenesis header.tsv out.tsv", "has no rows"),
    ("mutagenesis in.tsv out.tsv --plots plots --num_plots 0", "num_plots must be at least 1"),
    ("mutagenesis in.tsv out.tsv --name_column gene", "has no column 'gene' of names: its columns are 'sequence'"),
    ("variants pairs.fa out.tsv", "unknown kind of file for a table of variants"),
    ("variants broken.tsv.gz out.tsv", "cannot be read"),
    ("variants broken.parquet out.tsv", "cannot be read"),
    ("variants done_pairs.tsv out.tsv", "already has the column delta"),
    ("variants bad_pairs.tsv out.tsv --strict", "line 2: alternative sequence: letter 'X' at position 1 "),
    ("variants pairs.tsv out.tsv --genome g.fa", "--genome and --promoters are for a VCF"),
    ("variants v.vcf out.tsv", "a VCF needs --genome (FASTA) and --promoters (BED)"),
    ("variants v.vcf out.tsv --genome g --promoters p --position_base 1", "are for a table"),
    ("design out.tsv --starts absent.tsv", "there is no file"),
    ("design out.tsv --starts header.tsv", "has no rows"),
    ("design out.tsv --random 1 --fasta out.tsv", "cannot be both"),
    ("design out.tsv --starts in.tsv --gc_range 0.7 0.9 --strict", "in.tsv, line 2: breaks a constraint"),
    ("design out.tsv --starts in.tsv --gc_range 0.9 0.7", "the smaller first"),
    ("design out.tsv --random 1 --training header.tsv", "no training sequence"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "message"), MISTAKES)
def test_mistakes_end_in_one_line_and_leave_nothing(tiny_folder, folder, command, message):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    script, *arguments = command.split()
    assert message in error_of(script, tiny_folder, *arguments)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("arguments", ["--target up", "--fix a", "--fix 9-4", "--fix 0-3", "--starts in.tsv"])
def test_invalid_arguments_of_design(tiny_folder, folder, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        run_script("design", tiny_folder, "out.tsv", "--random", "1", *arguments.split())
    assert stop.value.code == 2 and "error:" in capsys.readouterr().err


@pytest.mark.slow
def test_a_script_is_a_program(tiny_folder, folder):
    command = [sys.executable, str(ROOT / "scripts/predict.py"), str(tiny_folder), "bad.tsv", "out.tsv", "--merged"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Loading" not in done.stderr, done.stderr
    reason = "1 x letter ... at position ... is not DNA"
    assert done.stdout.splitlines() == [
        "2 rows written to out.tsv", f"1 of them could not be predicted ({reason}): see the column `problem`"
    ]  # fmt: skip


def test_predict_explains_most_problems_and_finds_nothing_to_resume(tiny_folder, folder, capsys):
    (folder / "in.csv").write_text("sequence\n" + "A" * 30 + "\n" + "C" * 30 + "\nACGT\n")
    run_script("predict", tiny_folder, "in.csv", "OUT.CSV", "--resume", "--dtype", "float64")
    assert capsys.readouterr().out.splitlines() == [
        "no interrupted run of OUT.CSV was found: starting from the beginning", "3 rows written to OUT.CSV",
        "2 of them could not be predicted (2 x ... nt are more than the ... that the model reads): see the column "
        "`problem`",
        "The model removes the constant flanks of its own construct only: remove other flanks first.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("mutagenesis bad.tsv out.tsv --window 3 --method delete", "3 lines for 2 rows written to out.tsv"),
        ("attribution bad.tsv out.tsv --method gradient_x_input", "5 lines for 2 rows written to out.tsv"),
    ],
)
def test_summaries_of_lines(tiny_folder, folder, capsys, command, lines):
    script, *arguments = command.split()
    run_script(script, tiny_folder, *arguments, "--plots", "plots", "--num_plots", "1")
    problem = "1 row could not be predicted: the column `problem` gives the reason"
    assert capsys.readouterr().out.splitlines() == [lines, problem]
    assert len(names_in(folder / "plots")) == 1


def test_design_from_end_to_end(tiny_folder, folder, capsys):
    starts = ["GCTTTATATAAGGCGGGCAT", "ACGTACGTAC"]
    (folder / "in.csv").write_text("sequence\n" + "\n".join(starts) + "\n")
    options = "--max_edits 3 --fix 1-4 7 --forbid GAATTC GGGGG --gc_range 0.2 0.8 --training in.csv --fasta out.fa"
    run_script("design", tiny_folder, "out.tsv", "--starts", "in.csv", "--target", "60", *options.split())
    constraints = Constraints((0.2, 0.8), ("GAATTC", "GGGGG"), (0, 1, 2, 3, 6))
    predictor = Predictor.from_pretrained(tiny_folder)
    expected = design(predictor, starts, SearchOptions(60.0, max_edits=3), constraints=constraints)
    lines = read(folder / "out.tsv")
    assert lines["sequence"].tolist() == [found.sequence for found in expected]
    assert lines["nearest_training_distance"].tolist() == [len(found.edits) for found in expected]
    for column, text in (("expression", "sequence"), ("start_expression", "start")):
        np.testing.assert_allclose(lines[column], predictor.predict(lines[text].tolist()), rtol=1e-5)
    change = (lines["expression"] - lines["start_expression"]).median()
    assert capsys.readouterr().out.splitlines() == [
        "2 designs for 2 starts written to out.tsv", f"median predicted change: {change:+.3f} assay units",
        f"0 of 2 reached 60; nearest {lines['expression'].max():.2f}",
    ]  # fmt: skip
    assert (folder / "out.fa").read_text().count(">design_") == 2


def test_design_from_random_starts_by_their_bounds(make_model, tiny_tokenizer, folder, capsys):
    model = make_model(expression_bins=(-2.0, 0.0, 2.0), interval_quantiles={"90": 3.0})
    model.save_pretrained(folder / "uncertain")
    tiny_tokenizer.save_pretrained(folder / "uncertain")
    options = "--random 3 --length 9 --max_edits 1 --rank_by bound"
    run_script("design", "uncertain", "out.csv", *options.split())
    printed, lines = capsys.readouterr().out.splitlines(), read(folder / "out.csv")
    assert printed[0] == "3 designs for 3 starts written to out.csv"
    assert "`nearest_training_distance` is empty: --training FILE compares" in printed[-1]
    search = SearchOptions(max_edits=1, rank_by="bound")
    expected = design(Predictor.from_pretrained(folder / "uncertain"), lines["start"].tolist(), search)
    assert lines["sequence"].tolist() == [found.sequence for found in expected]
    assert lines["start"].str.len().tolist() == [9] * 3


CHOSEN = {
    "predict": "MODEL IN out.csv", "mutagenesis": "MODEL IN out.csv", "attribution": "MODEL IN out.csv --steps 2",
    "variants": "MODEL IN out.csv", "design": "MODEL out.csv --starts IN --max_edits 1",
}  # fmt: skip


@pytest.mark.parametrize("script", CHOSEN)
def test_chosen_columns_and_malformed_lines_are_reported(tiny_folder, folder, monkeypatch, capsys, script):
    text = "promoter,sequence,position,ref,alt\nx,ACGTACGT,1,A,C\ny,ACGTACGA,1,A,C\nz,ACGT,1,A,C,more\nc\n"
    (folder / "in.csv").write_text(text)
    run_script(script, *CHOSEN[script].replace("MODEL", str(tiny_folder)).replace("IN", "in.csv").split())
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-2:] == [
        "2 lines of in.csv are malformed and were left out: 4, 5",
        "line 4: 6 columns instead of 5: 'z,ACGT,1,A,C,more'",
    ]
    chosen = "in.csv: the sequence is column 'sequence', chosen among 'promoter', 'sequence' by its contents"
    assert printed.err.splitlines().count(chosen) == 1
    assert "Loading" not in printed.err
    monkeypatch.setenv("RANK", "1")
    command_line.prepare_process()
    open_table("in.csv")
    assert capsys.readouterr().err == "", "reported by the main process only"


@pytest.mark.parametrize(
    ("count", "numbers"),
    [(1, "1 line of in.csv is malformed and was left out: 3"),
     (1200, "1,200 lines of in.csv are malformed and were left out: 3, 4, 5, 6, 7, ...")],
)  # fmt: skip
def test_many_malformed_lines(capsys, count, numbers):
    malformed = tuple((3 + index, "1 column instead of 2: 'x'") for index in range(min(count, 5)))
    command_line.report_malformed(FileResult(9, 9, 0, (), count, malformed), Path("in.csv"))
    assert capsys.readouterr().out.splitlines() == [numbers, "line 3: 1 column instead of 2: 'x'"]


@pytest.mark.parametrize(
    ("total", "steps", "text"),
    [(None, [1000, 0.5, 0.5, 233], "sequences: 1,234 ["), (0, [], "sequences: 0 ["), (2000, [999], "999 of 2,000 [")],
)
def test_progress_counts_whole_sequences(total, steps, text):
    with progress_bar("sequences", total) as bar:
        for step in steps:
            bar.update(step)
        shown = str(bar)
    assert text in shown and shown.startswith("sequences: ") and "/s]" in shown


@pytest.mark.parametrize("hidden", [False, True])
def test_loading_bars_are_hidden_and_download_bars_shown(monkeypatch, hidden):
    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", True)
    (huggingface_hub.utils.disable_progress_bars if hidden else huggingface_hub.utils.enable_progress_bars)()
    try:
        command_line.prepare_process()
        assert not isinstance(transformers.utils.logging.tqdm([]), tqdm)
        assert huggingface_hub.utils.are_progress_bars_disabled() == hidden
    finally:
        huggingface_hub.utils.enable_progress_bars()
