"""Shared processing of files: problems, strictness, resuming, several processes and figures."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modeling_macaron.analysis.attribution import attribution_file
from modeling_macaron.analysis.design import SearchOptions, design_file
from modeling_macaron.analysis.figures import RowFigures
from modeling_macaron.analysis.files import FileOptions
from modeling_macaron.analysis.mutagenesis import mutagenesis_file
from modeling_macaron.analysis.predict import predict_file
from modeling_macaron.analysis.variants import variants_file
from modeling_macaron.io.parts import TableParts
from modeling_macaron.predictor import Predictor
from tests.analysis.cases import failing_predictor, names_in, read, write
from tests.launching import free_port
from tokenization import KmerTokenizer

PROBLEMS = {word: f"missing sequence '{word}'" for word in ("NA", "N/A", "nan", "none", "NULL", "nd", "-", ".")} | {
    "NNNN": "no A, C, G or T in the sequence", "": "empty sequence",
    "acgX": "letter 'X' at position 4 (counted from 1) is not DNA",
}  # fmt: skip
COMMANDS = {
    "predict": predict_file,
    "mutagenesis": mutagenesis_file,
    "attribution": partial(attribution_file, steps=2),
    "variants": partial(variants_file, columns={"reference": "sequence", "alternative": "other"}),
    "design": lambda *files, options=None: design_file(*files, SearchOptions(max_edits=1), options=options),
}
RESUME = FileOptions(resume=True)


def batch_size_of(command):
    """Batch size with which every command reads 16 or 32 rows at once."""
    return 2 if command in (COMMANDS["predict"], COMMANDS["variants"]) else 32


@pytest.fixture(params=COMMANDS)
def command(request):
    return COMMANDS[request.param]


@pytest.fixture
def table(tmp_path):
    """Table of 80 promoters with variants and some problems. Every command writes it in several parts."""
    bases = np.random.default_rng(0).choice(list("ACGT"), (2, 80, 6))
    first, second = (["".join(row) for row in rows] for rows in bases)
    first[3::17] = ["ACGT!"] * len(first[3::17])
    return write(pd.DataFrame({"name": range(80), "sequence": first, "other": second}), tmp_path / "in.tsv")


def interrupt(command, folder, table, call, **options):
    """Interrupt a command on `out.csv` in a forward pass, and return the sizes of the batches before."""
    predictor, sizes = failing_predictor(folder, call, batch_size_of(command))
    with pytest.raises(KeyboardInterrupt):
        command(predictor, table, table.with_name("out.csv"), options=RESUME, **options)
    return sizes


def test_missing_sequences_are_problems_of_their_rows(tiny_folder, tmp_path, command):
    rows = ["ACGTACGT", *PROBLEMS, " 1 acgtac gtacgt\t13 acg "]
    text = "".join(f"{index},{sequence},ACGA\n" for index, sequence in enumerate(rows))
    (tmp_path / "in.csv").write_text("name,sequence,other\n" + text)
    result = command(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv")
    problems = [one.removeprefix("reference sequence: ") for one in read(tmp_path / "out.csv")["problem"] if one]
    assert problems == list(PROBLEMS.values())
    assert (result.num_rows, result.num_problems) == (len(rows), len(PROBLEMS))


def test_strict_names_the_first_fault_in_file_order(tiny_folder, tmp_path, command):
    lines = ["sequence,other", *(f"ACGTACG{'ACGT'[i % 4]},ACGA" for i in range(100))]
    lines[89] = "ACGT"  # malformed: found by the reading thread before the row above it is encoded
    predictor = Predictor.from_pretrained(tiny_folder, batch_size=batch_size_of(command))
    for number, fault in ((90, "1 column instead of 2"), (60, "1 column instead of 2|letter 'X'")):
        (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
        with pytest.raises(ValueError, match=rf"in.csv, line {number}: .*({fault})"):
            command(predictor, tmp_path / "in.csv", tmp_path / "out.csv", options=FileOptions(strict=True))
        assert not (tmp_path / "out.csv").exists()
        shutil.rmtree(tmp_path / "out.csv.parts", ignore_errors=True)
        lines[59] = "ACGX,ACGA"
    assert command(predictor, tmp_path / "in.csv", tmp_path / "out.csv").num_malformed == 1


def test_interrupted_runs_are_resumed(tiny_folder, tmp_path, table, command):
    predictor, sizes = failing_predictor(tiny_folder, 0, batch_size_of(command))
    expected, total = command(predictor, table, tmp_path / "whole.csv"), len(sizes)
    assert (expected.num_rows, expected.num_problems) == (80, 5)
    interrupt(command, tiny_folder, table, total // 2)
    interrupt(command, tiny_folder, table, total // 4)  # of the rest
    assert names_in(tmp_path) == ["in.tsv", "out.csv.parts", "whole.csv"]
    with pytest.raises(FileExistsError, match=r"parts: pass --resume .* or --overwrite"):
        command(predictor, table, tmp_path / "out.csv")
    sizes.clear()
    assert repr(command(predictor, table, tmp_path / "out.csv", options=RESUME)) == repr(expected)
    assert 0 < len(sizes) < 0.8 * total, "finished parts are not computed again"
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert names_in(tmp_path) == ["in.tsv", "out.csv", "whole.csv"]


@pytest.mark.parametrize("changed", ["inputs", "settings", "weights", "tokenizer"])
def test_parts_of_another_request_are_not_joined(tiny_folder, make_model, table, changed):
    interrupt(mutagenesis_file, tiny_folder, table, 30)
    parts = table.with_name("out.csv.parts")
    before = {path: path.read_bytes() for path in parts.iterdir()}
    predictor, options = Predictor.from_pretrained(tiny_folder, batch_size=16), RESUME  # a smaller batch is no obstacle
    if changed == "inputs":
        table.write_text(table.read_text() + "80\tACGT\tACGT\n")
    elif changed == "settings":
        options = replace(options, name_column="name")
    elif changed == "weights":
        predictor = replace(predictor, model=make_model(seed=1))
    else:
        predictor = replace(predictor, tokenizer=KmerTokenizer(kmer_size=5, strand_length=20, flank5="ACCA"))
    with pytest.raises(ValueError, match=f"had other values of {changed}: use the same"):
        mutagenesis_file(predictor, table, table.with_name("out.csv"), options=options)
    assert {path: path.read_bytes() for path in parts.iterdir()} == before
    options = replace(options, resume=False, overwrite=True)
    mutagenesis_file(predictor, table, table.with_name("out.csv"), options=options)
    assert names_in(table.parent) == ["in.tsv", "out.csv"], "--overwrite starts again"


@pytest.mark.parametrize("changed", ["g.fa", "p.bed"])
def test_a_changed_genome_is_another_request(tiny_folder, tmp_path, changed):
    (tmp_path / "g.fa").write_text(">c\n" + "ACGGTCATTG" * 20 + "\n")
    (tmp_path / "p.bed").write_text("".join(f"c\t{i}\t{i + 12}\tp\t0\t{'+-'[i % 2]}\n" for i in range(150)))
    interrupt(predict_file, tiny_folder, tmp_path / "p.bed", 40, genome=tmp_path / "g.fa")
    (tmp_path / changed).write_text((tmp_path / changed).read_text() + "\n")
    predictor = Predictor.from_pretrained(tiny_folder, batch_size=2)
    with pytest.raises(ValueError, match="had other values of inputs"):
        predict_file(predictor, tmp_path / "p.bed", tmp_path / "out.csv", genome=tmp_path / "g.fa", options=RESUME)


def test_parts_without_their_request_are_computed_again(tiny_folder, make_model, table):
    interrupt(predict_file, tiny_folder, table, 20)
    (table.with_name("out.csv.parts") / "request.json").unlink()
    predictor = Predictor.from_pretrained(make_model(seed=1), batch_size=2)
    predict_file(predictor, table, table.with_name("out.csv"), options=RESUME)
    predict_file(predictor, table, table.with_name("other.csv"))
    assert table.with_name("out.csv").read_bytes() == table.with_name("other.csv").read_bytes()


def test_a_run_that_ended_before_its_parts_were_removed_is_resumed(predictor, tmp_path, table, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(TableParts, "remove", lambda self: None)
        expected = predict_file(predictor, table, tmp_path / "out.csv")
    before = (tmp_path / "out.csv").read_bytes()
    assert predict_file(predictor, table, tmp_path / "out.csv", options=RESUME) == expected
    assert (tmp_path / "out.csv").read_bytes() == before and names_in(tmp_path) == ["in.tsv", "out.csv"]
    with pytest.raises(FileExistsError, match="exists already"):
        predict_file(predictor, table, tmp_path / "out.csv", options=RESUME)


@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_with_other_files_are_kept(predictor, tmp_path, table, overwrite):
    (tmp_path / "out.csv.parts").mkdir()
    (tmp_path / "out.csv.parts" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="is in the way"):
        predict_file(predictor, table, tmp_path / "out.csv", options=FileOptions(resume=True, overwrite=overwrite))
    assert names_in(tmp_path / "out.csv.parts") == ["thesis.tex"]


def test_errors_leave_finished_parts_only_if_they_can_be_used(tiny_folder, tmp_path, table, monkeypatch):
    interrupt(predict_file, tiny_folder, table, 1)
    assert names_in(tmp_path) == ["in.tsv"], "nothing was finished"
    interrupt(predict_file, tiny_folder, table, 20)
    before = names_in(tmp_path / "out.csv.parts")
    predictor = Predictor.from_pretrained(tiny_folder, batch_size=2)
    with pytest.raises(ValueError, match="is not DNA"):
        predict_file(predictor, table, tmp_path / "out.csv", options=replace(RESUME, strict=True))
    assert set(before) <= set(names_in(tmp_path / "out.csv.parts")), "parts of an earlier run stay"
    shutil.rmtree(tmp_path / "out.csv.parts")
    encode = KmerTokenizer.encode_strands
    for error, stays in ((OSError(116, "Stale file handle"), True), (OSError("damaged"), False)):
        calls = []

        def failing(self, *arguments, error=error, calls=calls):
            calls.append(1)
            if len(calls) == 3:
                raise ValueError("in.tsv cannot be read") from error
            return encode(self, *arguments)

        monkeypatch.setattr(KmerTokenizer, "encode_strands", failing)
        with pytest.raises(ValueError, match="cannot be read"):
            predict_file(predictor, table, tmp_path / "out.csv")
        assert names_in(tmp_path) == ["in.tsv"] + ["out.csv.parts"] * stays
        shutil.rmtree(tmp_path / "out.csv.parts", ignore_errors=True)


@pytest.mark.parametrize("name", ["mutagenesis", "attribution"])
def test_figures_are_made_from_the_written_lines(tiny_folder, tmp_path, table, name):
    """A resumed run also draws the rows of the interrupted run."""

    def figures(folder):
        return RowFigures(tmp_path / folder, 3, same_scale=True)

    predictor, sizes = failing_predictor(tiny_folder, 0, 32)
    COMMANDS[name](predictor, table, tmp_path / "whole.csv", figures=figures("whole"))
    interrupt(COMMANDS[name], tiny_folder, table, len(sizes) // 2, figures=figures("resumed"))
    assert not (tmp_path / "resumed").exists()
    COMMANDS[name](predictor, table, tmp_path / "out.csv", figures=figures("resumed"), options=RESUME)
    kinds = {"mutagenesis": ["heatmap", "logo"], "attribution": ["attribution"]}[name]
    assert names_in(tmp_path / "whole") == [f"row_{row}_{kind}.png" for row in (1, 2, 3) for kind in kinds]
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "resumed" / path.name).read_bytes()


def test_figures_replace_only_figures_and_only_with_overwrite(predictor, tmp_path, table):
    folder = tmp_path / "figures"
    run = partial(attribution_file, predictor, table, steps=1)
    run(tmp_path / "out.csv", figures=RowFigures(folder, 2))
    with pytest.raises(FileExistsError, match="holds figures already"):
        RowFigures(folder)
    with pytest.raises(FileExistsError, match="is not a folder"):
        RowFigures(table)
    (folder / "row_mine.png").write_text("another file")
    figures = RowFigures(folder, 1, plot_format="svg", overwrite=True)
    run(tmp_path / "out.csv", figures=figures, options=FileOptions(overwrite=True))
    assert names_in(folder) == ["row_1_attribution.svg", "row_mine.png"]


LAUNCHED = """
import json, sys
from modeling_macaron.machine import run_command
from scripts import mutagenesis, predict

def main():
    predict.main(json.loads(sys.argv[1]))
    mutagenesis.main(json.loads(sys.argv[2]))

run_command(main)
"""


@pytest.mark.slow
def test_two_processes_write_the_same_as_one(tiny_folder, tmp_path, table):
    """One command resumes an interrupted run, the other draws figures."""
    predictor = Predictor.from_pretrained(tiny_folder, batch_size=2)
    predict_file(predictor, table, tmp_path / "whole.csv")
    figures = RowFigures(tmp_path / "whole", 2)
    mutagenesis_file(replace(predictor, batch_size=32), table, tmp_path / "whole.tsv", figures=figures)
    interrupt(predict_file, tiny_folder, table, 20)
    (tmp_path / "program.py").write_text(LAUNCHED)
    figures, cpu = ["--plots", "figures", "--num_plots", "2"], ["--device", "cpu"]
    commands = [
        [str(tiny_folder), "in.tsv", "out.csv", "--resume", "--batch_size", "2", *cpu],
        [str(tiny_folder), "in.tsv", "out.tsv", "--batch_size", "32", *figures, *cpu],
    ]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port", free_port()]
    launch += ["--num_processes", "2", "program.py", *map(json.dumps, commands)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, *launch], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("80 rows written to out.csv") == 1
    assert done.stdout.count("5 rows could not be predicted") == 1
    for one, other in (("out.csv", "whole.csv"), ("out.tsv", "whole.tsv")):
        assert (tmp_path / one).read_bytes() == (tmp_path / other).read_bytes()
    assert names_in(tmp_path / "figures") == names_in(tmp_path / "whole") != []
    for path in (tmp_path / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
    assert not list(tmp_path.glob("*.parts"))
