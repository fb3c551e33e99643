"""What the command lines of several verbs share."""

import runpy
import subprocess
import sys
from pathlib import Path

import huggingface_hub.utils
import pytest
import transformers.utils.logging
from tqdm.auto import tqdm

from modeling_macaron.analysis import command_line
from modeling_macaron.analysis.predict import FilePrediction
from modeling_macaron.io.streams import progress_bar
from modeling_macaron.io.tables import open_table

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize(
    ("total", "steps", "text"),
    [
        (None, [1], "sequences: 1 ["),
        (None, [1000, 0.5, 0.5, 233], "sequences: 1,234 ["),
        (0, [], "sequences: 0 ["),
        (2000, [1, 999], "1,000 of 2,000 ["),
    ],
)
def test_progress_counts_whole_sequences(total, steps, text):
    with progress_bar("sequences", total) as bar:
        for step in steps:
            bar.update(step)
        shown = str(bar)
    assert text in shown and shown.startswith("sequences: ") and "/s]" in shown
    assert progress_bar("sequences", verbose=False).disable


@pytest.mark.parametrize("hidden", [False, True])
def test_loading_is_hidden_and_downloads_are_as_they_were(monkeypatch, hidden):
    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", True)
    (huggingface_hub.utils.disable_progress_bars if hidden else huggingface_hub.utils.enable_progress_bars)()
    try:
        command_line.prepare_process()
        assert not isinstance(transformers.utils.logging.tqdm([]), tqdm)
        assert huggingface_hub.utils.are_progress_bars_disabled() == hidden
    finally:
        huggingface_hub.utils.enable_progress_bars()


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, []),
        (1, ["1 line of in.csv is malformed and was left out: 3", "line 3: 1 column instead of 2: 'x'"]),
        (2, ["2 lines of in.csv are malformed and were left out: 3, 4", "line 3: 1 column instead of 2: 'x'"]),
        (
            1200,
            ["1,200 lines of in.csv are malformed and were left out: 3, 4, 5, 6, 7, ...",
             "line 3: 1 column instead of 2: 'x'"],
        ),
    ],
)  # fmt: skip
def test_lines_that_are_no_rows_are_named(capsys, count, told):
    malformed = tuple((3 + index, "1 column instead of 2: 'x'") for index in range(min(count, 5)))
    command_line.report_malformed(FilePrediction(9, 0, count, malformed), Path("in.csv"))
    assert capsys.readouterr().out.splitlines() == told


@pytest.mark.parametrize(
    ("script", "table"),
    [
        ("predict.py", "name,sequence\na,ACGT\nb,ACGT,more\nc\n"),
        ("mutagenesis.py", "name,sequence\na,ACGT\nb,ACGT,more\nc\n"),
        ("attribution.py", "name,sequence\na,ACGT\nb,ACGT,more\nc\n"),
        ("variants.py", "reference_sequence,alternative_sequence\nACGT,ACGA\nb,ACGT,more\nc\n"),
        ("design.py", "name,sequence\na,ACGT\nb,ACGT,more\nc\n"),
    ],
)
def test_scripts_name_lines_that_are_no_rows_and_show_no_loading(tiny_folder, tmp_path, script, table):
    (tmp_path / "in.csv").write_text(table)
    files = ["out.csv", "--starts", "in.csv", "--max_edits", "1"] if script == "design.py" else ["in.csv", "out.csv"]
    command = [sys.executable, str(SCRIPTS / script), str(tiny_folder), *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "2 lines of in.csv are malformed and were left out: 3, 4",
        "line 3: 3 columns instead of 2: 'b,ACGT,more'",
    ]
    assert "Loading" not in done.stderr
    (tmp_path / "in.csv").write_text(table.splitlines()[0] + "\nc\n")
    none = subprocess.run([*command, "--overwrite"], cwd=tmp_path, capture_output=True, text=True)
    last = "error: in.csv has no row that can be read; line 2: 1 column instead of 2: 'c'"
    assert none.returncode == 1 and none.stderr.splitlines()[-1] == last


CHOSEN = {
    "predict.py": ("sequence", "MODEL IN out.csv"),
    "mutagenesis.py": ("sequence", "MODEL IN out.csv"),
    "attribution.py": ("sequence", "MODEL IN out.csv --steps 2"),
    "variants.py": ("sequence", "MODEL IN out.csv"),
    "design.py": ("sequence", "MODEL out.csv --starts IN --max_edits 1"),
    "evaluate.py": ("sequence", "--model MODEL --table IN --output out.json"),
}


@pytest.mark.parametrize("script", CHOSEN)
def test_columns_chosen_by_what_they_hold_are_shown_once(tiny_folder, tmp_path, monkeypatch, capsys, script):
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text(
        "promoter,sequence,position,ref,alt,value\nx,ACGTACGT,1,A,C,1\ny,ACGTACGA,1,A,C,2\nz,ACGAACGA,1,A,C,3\n"
    )
    role, line = CHOSEN[script]
    main = runpy.run_path(str(SCRIPTS / script))["main"]
    main([{"MODEL": str(tiny_folder), "IN": "in.csv"}.get(word, word) for word in line.split()])
    shown = f"in.csv: the {role} is column 'sequence', chosen among 'promoter', 'sequence' by what it holds"
    assert capsys.readouterr().err.splitlines().count(shown) == 1
    monkeypatch.setenv("RANK", "1")
    command_line.prepare_process()
    open_table("in.csv")
    assert capsys.readouterr().err == ""
