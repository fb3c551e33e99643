"""Notebooks run from the first cell to the last, and what is saved in them is what they give."""

import os
import re
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.execute import METADATA, execute, main

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["1_quickstart", "2_train_on_your_own_table", "3_variants_and_mutagenesis", "4_design"]

# A folder of somebody's machine, or what a progress bar leaves.
PATHS = re.compile(r"(?<![\w.~])/(?:home|root|tmp|work|Users|var|mnt|private|opt|usr)/|[A-Za-z]:\\|~/")
PROGRESS = re.compile(r"it/s|s/it|%\|")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """Everything of a cell's outputs that is text."""
    for output in cell.outputs:
        yield output.get("text", "")
        yield from (str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/"))


def kinds(cell):
    """What a cell gives, whatever the values."""
    return sorted({(output.output_type, *sorted(output.get("data", {}))) for output in cell.outputs})


def test_the_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.slow
@pytest.mark.timeout(1800)
@every_notebook
def test_notebook_runs_and_gives_what_is_saved(path, monkeypatch, tmp_path):
    """In a fresh kernel, offline, from a folder that is not the repository's, where nothing is left."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "copy"
    folder.mkdir()
    saved = nbformat.read(path, as_version=4)
    executed = execute(path, folder)
    assert not list(folder.iterdir())
    assert nbformat.read(path, as_version=4) == saved
    for new, old in zip(code_cells(executed), code_cells(saved), strict=True):
        assert kinds(new) == kinds(old), old.source
        assert not any(output.get("name") == "stderr" for output in new.outputs), new.outputs


@every_notebook
def test_saved_outputs_are_complete_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    assert not any("widget" in kind for output in outputs for kind in output.get("data", {}))
    for cell in cells:
        for text in texts(cell):
            assert not PATHS.search(text) and not PROGRESS.search(text), text


@every_notebook
def test_source_is_portable(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not PATHS.search(cell.source), cell.source
        assert "execution" not in cell.metadata
    assert notebook.metadata == METADATA
    assert path.stat().st_size < 1e6


@every_notebook
def test_links_lead_somewhere(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source) if cell.cell_type == "markdown" else []:
            assert target.startswith("https://") or (path.parent / target).exists(), target


@pytest.mark.parametrize("text", ["/home/me/x", "'/tmp/ipykernel_1/2.py'", "C:\\Users", "in /work/main", "~/data"])
def test_paths_are_recognized(text):
    assert PATHS.search(text)


@pytest.mark.parametrize("text", ["checkpoints/work/x", "../home/x", "r/tmp", "5'/3' flanks", "data/usr/x"])
def test_what_is_no_path_is_not(text):
    assert not PATHS.search(text)


def write_notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source, id=str(index)) for index, source in enumerate(sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_execution_in_place_saves_outputs_alone(tmp_path):
    path = write_notebook(tmp_path / "some.ipynb", "1 + 1", "print('done')")
    main([str(path)])
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2]
    assert notebook.cells[0].outputs[0].data == {"text/plain": "2"}
    assert notebook.cells[1].outputs[0].text == "done\n"
    assert notebook.metadata == METADATA and not any(cell.metadata for cell in notebook.cells)


def test_a_notebook_that_fails_stays_as_it_was(tmp_path):
    path = write_notebook(tmp_path / "some.ipynb", "1 + 1", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        main([str(path)])
    assert path.read_bytes() == before
