import errno
from collections import namedtuple

import pytest
from safetensors import SafetensorError

from modeling_macaron.training import saving
from modeling_macaron.training.saving import whole_or_nothing

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def folder(tmp_path):
    for name in ("checkpoint-2", "checkpoint-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "checkpoint-4"


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 10**9),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 10**9),
        (RuntimeError("basic_ios::clear: iostream error"), 99),
        (SafetensorError("I/O error"), 0),
    ],
)
def test_a_checkpoint_without_room_is_removed(folder, monkeypatch, error, free):
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda path: Usage(10**9, 0, free))
    told = r"no space is left for .*checkpoint-4, which was removed.*auto"
    with pytest.raises(OSError, match=told), whole_or_nothing(folder, 100):
        raise error
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EACCES, "Permission denied"), RuntimeError("a bug"), SafetensorError("I/O error"), KeyError(1)],
)
def test_other_errors_stay_what_they_are(folder, monkeypatch, error):
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda path: Usage(10**9, 0, 101))
    with pytest.raises(type(error)) as caught, whole_or_nothing(folder, 100):
        raise error
    assert caught.value is error
    assert folder.is_dir()
