"""Files and folders appear completely or not at all, even if a process is killed."""

import pytest

from modeling_macaron.atomic import new_file, new_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_killed_processes_leave_no_partial_outputs(tmp_path):
    (tmp_path / ".data.partial").mkdir()
    (tmp_path / ".data.partial" / "half").write_text("")
    (tmp_path / ".table.csv.partial").write_text("half")
    with new_folder(tmp_path / "data") as folder:
        assert names(folder) == []
        (folder / "report.json").write_text("{}")
    with new_file(tmp_path / "table.csv") as file:
        file.write_text("whole")
    assert names(tmp_path) == ["data", "table.csv"]
    assert (tmp_path / "table.csv").read_text() == "whole"


@pytest.mark.parametrize("overwrite", [False, True])
def test_moved_folders_are_restored(tmp_path, overwrite):
    """A process is killed between moving the old folder and renaming the new one."""
    for name in (".data.replaced", ".data.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(name)
    if not overwrite:
        with pytest.raises(FileExistsError, match="exists already"), new_folder(tmp_path / "data"):
            pass
        assert (tmp_path / "data" / "report.json").read_text() == ".data.replaced"
        return
    with pytest.raises(ValueError, match="mine"), new_folder(tmp_path / "data", overwrite=True):
        raise ValueError("mine")
    assert names(tmp_path) == ["data"]
    assert (tmp_path / "data" / "report.json").read_text() == ".data.replaced"


def test_errors_keep_existing_outputs(tmp_path):
    (tmp_path / "table.csv").write_text("old")
    with pytest.raises(ValueError, match="mine"), new_file(tmp_path / "table.csv") as file:
        file.write_text("half")
        raise ValueError("mine")
    assert names(tmp_path) == ["table.csv"] and (tmp_path / "table.csv").read_text() == "old"
