"""Disks that are full while training saves; a limit on the size of files stands for them, as no rights are needed."""

import errno
import os
import resource
import shutil
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from modeling_macaron.io.atomic import explain_full_disk, is_full_disk
from modeling_macaron.training.checkpoints import is_complete, whole_or_nothing
from tests.training.test_run import RECIPE, ROOT, SHORT, TINY

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    SafetensorError('Error while serializing: IoError(Os { code: 27, kind: FileTooLarge, message: "File too large" })'),
]
OF_TORCH = [
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
]
OTHER = [
    OSError(errno.EACCES, "Permission denied"),
    SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"),
    SafetensorError("I/O error"),
    RuntimeError("a bug"),
    KeyError(28),
]


@pytest.fixture
def folder(tmp_path):
    for name in ("checkpoint-2", "checkpoint-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "checkpoint-4"


@pytest.mark.parametrize("error", [*FULL, *OF_TORCH])
def test_a_checkpoint_without_room_is_removed(folder, error):
    told = r"no space is left for .*checkpoint-4, which was removed.*auto"
    with pytest.raises(OSError, match=told), whole_or_nothing(folder):
        raise error
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize("error", OTHER)
def test_other_errors_stay_what_they_are(folder, error):
    for context in (whole_or_nothing(folder), explain_full_disk(folder)):
        with pytest.raises(type(error)) as caught, context:
            raise error
        assert caught.value is error
    assert folder.is_dir()
    assert not is_full_disk(error)


@pytest.mark.parametrize("error", FULL)
def test_a_folder_without_room_is_named(folder, error):
    told = r"no space is left for .*checkpoint-4: make room"
    with pytest.raises(OSError, match=told) as caught, explain_full_disk(folder):
        raise error
    assert is_full_disk(caught.value)


def train_with_limit(prepared, output_dir, size, *options):
    """Run `scripts/train.py`, which can write no file larger than `size` bytes."""
    arguments = ["--dataset", str(prepared), "--output_dir", str(output_dir), *TINY, *SHORT, *options]
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), RECIPE, *arguments, "--use_cpu", "true"],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip


def assert_told_in_one_line(result, place):
    assert result.returncode == 1, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "error" in line]
    assert line.startswith(f"error: no space is left for {place}")


@pytest.mark.slow
def test_training_on_a_full_disk_leaves_nothing_half(prepared, tmp_path):
    """The weights do not fit, then the optimizer's state, which torch writes; then the final folder."""
    run, unlimited = tmp_path / "run", resource.RLIM_INFINITY
    result = train_with_limit(prepared, run, unlimited)
    assert result.returncode == 0, result.stderr[-3000:]
    size = (run / "checkpoint-12" / "model.safetensors").stat().st_size
    assert (run / "checkpoint-12" / "optimizer.pt").stat().st_size > 1.5 * size
    for name in ("checkpoint-8", "checkpoint-12", "final"):
        shutil.rmtree(run / name)
    for room in (size - 100, int(1.5 * size)):
        result = train_with_limit(prepared, run, room, "--resume_from_checkpoint", "auto")
        assert_told_in_one_line(result, f"{run / 'checkpoint-8'}, which was removed")
        assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-4"]
        assert is_complete(run / "checkpoint-4")

    result = train_with_limit(prepared, run, unlimited, "--resume_from_checkpoint", "auto")
    assert result.returncode == 0, result.stderr[-3000:]
    shutil.rmtree(run / "final")
    result = train_with_limit(prepared, run, size - 100, "--resume_from_checkpoint", "auto")
    assert_told_in_one_line(result, f"{run / 'final'}: make room")
    assert not (run / "final").exists() and not list(run.glob(".final*"))
    assert is_complete(run / "checkpoint-12")
