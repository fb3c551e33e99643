"""Complete checkpoints are found, replace leftovers, and resume with any number of processes."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import EarlyStoppingCallback

from modeling_macaron.atomic import explain_full_disk
from modeling_macaron.training.checkpoints import find_checkpoint, is_complete, whole_or_nothing
from tests.training.runs import RECIPE, ROOT, SHORT, TINY, assert_close, finish, launch, make_trainer, options, parse
from tests.training.runs import weights_of as read


def write_checkpoint(folder, sharded=False):
    """Make the files of a complete checkpoint of two processes."""
    folder.mkdir(parents=True)
    for name in ("model", "raw_weights"):
        save_file({"weight": torch.zeros(3)}, folder / f"{name}.safetensors")
    optimizer = ["optimizer.bin", "pytorch_model_fsdp.bin"] if sharded else ["optimizer.pt"]
    for name in ("scheduler.pt", *optimizer, "rng_state_0.pth", "rng_state_1.pth"):
        torch.save({"state": torch.zeros(3)}, folder / name)
    for name in ("config.json", "trainer_state.json"):
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("spoil", ["empty", "cut off", "absent"])
def test_incomplete_files_make_an_incomplete_checkpoint(tmp_path, sharded, spoil):
    whole = write_checkpoint(tmp_path / "checkpoint-2", sharded)
    assert is_complete(whole)
    written_before_the_last = ("rng_state_0.pth", "rng_state_1.pth", "raw_weights.safetensors")
    for path in sorted(whole.iterdir()):
        folder = shutil.copytree(whole, tmp_path / f"without-{path.name}")
        data = path.read_bytes()
        (folder / path.name).write_bytes(b"" if spoil == "empty" else data[: len(data) - 1 - len(data) // 10])
        if spoil == "absent":
            (folder / path.name).unlink()
        if path.name not in (written_before_the_last if spoil == "absent" else ("config.json",)):
            assert not is_complete(folder), path.name


def test_latest_complete_checkpoint_is_found_and_skipped_ones_are_named(prepared, tmp_path, caplog):
    def find(resume="auto"):
        caplog.clear()
        args = parse(prepared, tmp_path, *options(use_cpu="true", resume_from_checkpoint=resume))[1]
        return find_checkpoint(args)

    assert find() is None and not caplog.records
    two, four, ten = (write_checkpoint(tmp_path / f"checkpoint-{step}") for step in (2, 4, 10))
    assert find() == str(ten) and find(four) == str(four) and not caplog.records
    for folder in (four, ten):
        (folder / "optimizer.pt").write_bytes(b"")
    assert find() == str(two)
    assert "skipped the incomplete checkpoint-10, checkpoint-4" in caplog.text and "from checkpoint-2" in caplog.text
    with pytest.raises(ValueError, match="checkpoint-4: not a complete checkpoint"):
        find(four)
    (two / "trainer_state.json").write_text('{"global_step": 1')
    assert find() is None
    assert "checkpoint-2; there is no other" in caplog.text and "STARTS FROM STEP 0" in caplog.text


def test_leftover_folder_is_removed_before_a_checkpoint_is_written(prepared, tmp_path, monkeypatch):
    stale = write_checkpoint(tmp_path / "checkpoint-2")

    def stop(self, path):
        raise KeyboardInterrupt

    trainer = make_trainer(prepared, tmp_path, max_steps=2, save_steps=2, ema_decay=0.9)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.trainer.TrainerState.save_to_json", stop)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    assert len(read(stale)) == len(read(stale, "raw_weights.safetensors")) > 10
    assert {path.name for path in stale.glob("rng_state*")} == {"rng_state.pth"}
    assert not is_complete(stale), "the state that completes a checkpoint is written last"
    make_trainer(prepared, tmp_path, max_steps=2, save_steps=2).train()
    assert is_complete(stale)


def test_early_stopping_may_be_added_to_a_resumed_run(prepared, tmp_path):
    make_trainer(prepared, tmp_path, max_steps=2, save_steps=2).train()
    evaluated = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    trainer = make_trainer(prepared, tmp_path, max_steps=4, save_steps=2, **evaluated)
    trainer.add_callback(EarlyStoppingCallback(5))
    trainer.train(str(tmp_path / "checkpoint-2"))
    saved = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert saved["EarlyStoppingCallback"]["args"]["early_stopping_patience"] == 5


@pytest.mark.parametrize("max_steps", [4, 3])
def test_run_resumed_at_its_end_takes_no_step(prepared, tmp_path, max_steps):
    make_trainer(prepared, tmp_path, max_steps=4, save_steps=2).train()
    trainer = make_trainer(prepared, tmp_path, max_steps=max_steps, save_steps=2)
    assert trainer.train(str(tmp_path / "checkpoint-4")).global_step == 4
    trainer.save_model(tmp_path / "saved")
    assert_close(tmp_path / "saved", tmp_path / "checkpoint-4")


@pytest.mark.slow
def test_run_continues_with_more_and_with_fewer_processes(prepared, tmp_path):
    """Four processes and one continue from the checkpoint of two, and two from that of four."""
    words = [*TINY, *SHORT, *options(dataset=prepared, hidden_dropout=0.0)]
    finish(launch([*words, "--output_dir", tmp_path / "2"], processes=2))
    for source, step, processes in (("2", 4, 4), ("2", 8, 1), ("2-4", 8, 2)):
        run = tmp_path / f"{source}-{processes}"
        shutil.copytree(tmp_path / source / f"checkpoint-{step}", run / f"checkpoint-{step}")
        shutil.copy(tmp_path / source / "run.json", run)
        finish(launch([*words, "--output_dir", run, "--resume_from_checkpoint", "auto"], processes))
        state = json.loads((run / "checkpoint-12" / "trainer_state.json").read_text())
        assert state["log_history"][0]["step"] == 2, "it continued, with the history of the first run"
        assert len(list((run / "checkpoint-12").glob("rng_state*"))) == processes
        assert_close(run / "checkpoint-12", tmp_path / "2" / "checkpoint-12", rtol=1e-3, atol=1e-4)


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    SafetensorError('Error while serializing: IoError(Os { code: 27, kind: FileTooLarge, message: "File too large" })'),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
]
OTHER = [
    OSError(errno.EACCES, "Permission denied"), SafetensorError("I/O error: Permission denied (os error 13)"),
    RuntimeError("a bug"), KeyError(28),
]  # fmt: skip


@pytest.mark.parametrize(("error", "is_full"), [(one, True) for one in FULL] + [(one, False) for one in OTHER])
def test_only_the_checkpoint_that_fills_a_disk_is_removed(tmp_path, error, is_full):
    earlier, folder = (write_checkpoint(tmp_path / f"checkpoint-{step}") for step in (2, 4))
    with pytest.raises(OSError if is_full else type(error)) as caught, whole_or_nothing(folder):
        raise error
    assert (
        f"no space is left for {folder}, which was removed" in str(caught.value) if is_full else caught.value is error
    )
    assert is_complete(earlier) and folder.exists() != is_full
    if not isinstance(error, RuntimeError):
        with pytest.raises(OSError if is_full else type(error)) as caught, explain_full_disk(folder):
            raise error
        assert f"no space is left for {folder}: make room" in str(caught.value) if is_full else caught.value is error


@pytest.mark.slow
def test_training_on_a_full_disk_leaves_nothing_half_written(prepared, tmp_path):
    """The weights, the optimizer state or the final folder do not fit. A limit on file sizes simulates this."""
    run = tmp_path / "run"

    def train_with_limit(size, *more):
        words = [*TINY, *SHORT, *options(dataset=prepared, output_dir=run, use_cpu="true"), *more]
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "train.py"), RECIPE, *words],
            capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        )  # fmt: skip

    def assert_reported(result, place):
        assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr[-3000:]
        (line,) = [line for line in result.stderr.splitlines() if "error" in line]
        assert line.startswith(f"error: no space is left for {place}")

    result = train_with_limit(resource.RLIM_INFINITY)
    assert result.returncode == 0, result.stderr[-3000:]
    size = (run / "checkpoint-12" / "model.safetensors").stat().st_size
    shutil.rmtree(run / "final")
    assert_reported(train_with_limit(size - 100, "--resume_from_checkpoint", "auto"), f"{run / 'final'}: make room")
    assert not (run / "final").exists() and not list(run.glob(".final*")) and is_complete(run / "checkpoint-12")
    for name in ("checkpoint-8", "checkpoint-12"):
        shutil.rmtree(run / name)
    for room in (size - 100, int(1.5 * size)):
        result = train_with_limit(room, "--resume_from_checkpoint", "auto")
        assert_reported(result, f"{run / 'checkpoint-8'}, which was removed")
        assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-4"]
        assert is_complete(run / "checkpoint-4")
