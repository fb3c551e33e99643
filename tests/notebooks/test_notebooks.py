"""Notebooks run and reproduce their saved outputs."""

import os
import re
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.execute import METADATA, execute, main

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["1_quickstart", "2_train_on_your_own_table", "3_variants_and_mutagenesis", "4_design"]

# A local folder, or remains of a progress bar.
PATHS = re.compile(r"(?<![\w.~])/(?:home|root|tmp|work|Users|var|mnt|private|opt|usr)/|[A-Za-z]:\\|~/")
PROGRESS = re.compile(r"it/s|s/it|%\|")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """Text of a cell's outputs."""
    for output in cell.outputs:
        yield output.get("text", "")
        yield from (str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/"))


def kinds(cell):
    """Kinds of a cell's outputs."""
    return sorted({(output.output_type, *sorted(output.get("data", {}))) for output in cell.outputs})


def test_notebooks_exist():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.slow
@pytest.mark.timeout(1800)
@every_notebook
def test_notebooks_reproduce_their_saved_outputs(path, monkeypatch, tmp_path):
    """Runs in a fresh kernel, offline, in an empty folder outside the repository."""
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
def test_links_are_valid(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source) if cell.cell_type == "markdown" else []:
            assert target.startswith("https://") or (path.parent / target).exists(), target


@pytest.mark.parametrize("text", ["/home/me/x", "'/tmp/ipykernel_1/2.py'", "C:\\Users", "in /work/main", "~/data"])
def test_paths_are_recognized(text):
    assert PATHS.search(text)


@pytest.mark.parametrize("text", ["checkpoints/work/x", "../home/x", "r/tmp", "5'/3' flanks", "data/usr/x"])
def test_other_texts_are_not_paths(text):
    assert not PATHS.search(text)


def write_notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source, id=str(index)) for index, source in enumerate(sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_execution_in_place_saves_only_outputs(tmp_path):
    path = write_notebook(tmp_path / "some.ipynb", "1 + 1", "print('done')")
    main([str(path)])
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2]
    assert notebook.cells[0].outputs[0].data == {"text/plain": "2"}
    assert notebook.cells[1].outputs[0].text == "done\n"
    assert notebook.metadata == METADATA and not any(cell.metadata for cell in notebook.cells)


def test_failing_notebooks_are_not_changed(tmp_path):
    path = write_notebook(tmp_path / "some.ipynb", "1 + 1", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        main([str(path)])
    assert path.read_bytes() == before
