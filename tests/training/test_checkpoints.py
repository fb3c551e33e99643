"""Which checkpoints a run goes on from, on as many processes as there are now."""

import json
import logging
import shutil
import tracemalloc

import pytest
import torch
from safetensors.torch import save_file
from transformers import EarlyStoppingCallback

from modeling_macaron.training.arguments import parse_recipe
from modeling_macaron.training.checkpoints import find_checkpoint, is_complete
from tests.training.test_run import RECIPE, SHORT, TINY, finish, launch, weights_of
from tests.training.test_trainer import make_trainer


def write_checkpoint(folder, processes, told=True, sharded=False):
    """Make the files of a complete checkpoint that `processes` processes wrote."""
    folder.mkdir(parents=True)
    save_file({"weight": torch.zeros(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    names = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    optimizer = ["optimizer.bin", "pytorch_model_fsdp.bin"] if sharded else ["optimizer.pt"]
    for name in ("scheduler.pt", *optimizer, *names):
        torch.save({"state": torch.zeros(3)}, folder / name)
    callbacks = {"NumProcesses": {"args": {}, "attributes": {"num_processes": processes}}} if told else {}
    (folder / "trainer_state.json").write_text(json.dumps({"stateful_callbacks": callbacks}))
    return folder


def resume_auto(prepared, output_dir):
    command = [RECIPE, "--dataset", str(prepared), "--output_dir", str(output_dir), "--use_cpu", "true"]
    return find_checkpoint(parse_recipe([*command, "--resume_from_checkpoint", "auto"])[1])


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_what_any_number_of_processes_wrote_is_complete(tmp_path, processes, told):
    assert is_complete(write_checkpoint(tmp_path / "checkpoint-2", processes, told))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_random_state_of_every_process_that_wrote_it_is_needed(tmp_path, processes):
    for rank in range(processes):
        folder = write_checkpoint(tmp_path / f"checkpoint-{rank}", processes)
        (folder / ("rng_state.pth" if processes == 1 else f"rng_state_{rank}.pth")).unlink()
        assert not is_complete(folder), rank
    folder = write_checkpoint(tmp_path / "checkpoint-9", processes)
    torch.save({}, folder / f"rng_state_{processes}.pth")
    assert not is_complete(folder), "of two runs"


@pytest.mark.parametrize("ranks", [(), (0,), (1, 2), (0, 2)])
def test_old_checkpoint_that_tells_no_number_needs_all_up_to_the_last(tmp_path, ranks):
    folder = write_checkpoint(tmp_path / "checkpoint-2", 3, told=False)
    for rank in {0, 1, 2} - set(ranks):
        (folder / f"rng_state_{rank}.pth").unlink()
    assert not is_complete(folder)


@pytest.mark.parametrize(
    "state",
    [
        "[]",
        "7",
        '{"stateful_callbacks": []}',
        '{"stateful_callbacks": null}',
        '{"stateful_callbacks": {"NumProcesses": {}}}',
        '{"stateful_callbacks": {"NumProcesses": [{}]}}',
        '{"stateful_callbacks": {"NumProcesses": {"attributes": {"num_processes": "2"}}}}',
        '{"stateful_callbacks": {"NumProcesses": {"attributes": {"num_processes": 1e300}}}}',
        pytest.param("[" * 200_000, id="nested"),
    ],
)
def test_state_that_the_trainer_did_not_write_is_passed_over(tmp_path, state):
    folder = write_checkpoint(tmp_path / "checkpoint-2", 2)
    (folder / "trainer_state.json").write_text(state)
    assert not is_complete(folder)


def test_absurd_number_of_processes_costs_nothing(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint-2", 2)
    told = {"NumProcesses": {"args": {}, "attributes": {"num_processes": 3_000_000}}}
    (folder / "trainer_state.json").write_text(json.dumps({"stateful_callbacks": told}))
    tracemalloc.start()
    try:
        assert not is_complete(folder)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("spoil", ["empty", "cut off", "absent"])
def test_files_that_are_cut_off_are_no_checkpoint(tmp_path, sharded, spoil):
    whole = write_checkpoint(tmp_path / "checkpoint-2", 2, sharded=sharded)
    assert is_complete(whole)
    for path in sorted(whole.iterdir()):
        folder = tmp_path / f"without-{path.name}"
        shutil.copytree(whole, folder)
        data = path.read_bytes()
        (folder / path.name).write_bytes(b"" if spoil == "empty" else data[: len(data) - 1 - len(data) // 10])
        if spoil == "absent":
            (folder / path.name).unlink()
        if path.name != "config.json" or spoil == "absent":
            assert not is_complete(folder), path.name


def test_checkpoints_that_are_passed_over_are_named(prepared, tmp_path, caplog):
    for step in (2, 4, 10):
        write_checkpoint(tmp_path / f"checkpoint-{step}", 1)
    assert resume_auto(prepared, tmp_path) == str(tmp_path / "checkpoint-10")
    assert not caplog.records
    for step in (4, 10):
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"")
    assert resume_auto(prepared, tmp_path) == str(tmp_path / "checkpoint-2")
    (record,) = caplog.records
    assert "checkpoint-10, checkpoint-4 not complete" in record.message and "from checkpoint-2" in record.message


def test_run_killed_in_its_first_checkpoint_starts_anew_and_says_so(prepared, tmp_path, caplog):
    assert resume_auto(prepared, tmp_path) is None
    assert not caplog.records
    (write_checkpoint(tmp_path / "checkpoint-2", 1) / "trainer_state.json").unlink()
    assert resume_auto(prepared, tmp_path) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "checkpoint-2 not complete" in record.message and "STARTS ANEW" in record.message


def test_what_stands_in_the_place_of_a_checkpoint_goes_before_it_is_written(prepared, tmp_path, monkeypatch):
    stale = write_checkpoint(tmp_path / "checkpoint-2", 1)
    (stale / "rng_state_3.pth").write_bytes(b"of another run")

    def stop(self, output_dir):
        raise KeyboardInterrupt

    trainer = make_trainer(prepared, tmp_path, max_steps=2, save_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.Trainer._save_optimizer_and_scheduler", stop)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    assert (stale / "model.safetensors").is_file(), "the new weights"
    assert not (stale / "trainer_state.json").exists() and not is_complete(stale)
    make_trainer(prepared, tmp_path, max_steps=2, save_steps=2).train()
    assert is_complete(stale) and not (stale / "rng_state_3.pth").exists()
    told = json.loads((stale / "trainer_state.json").read_text())["stateful_callbacks"]["NumProcesses"]
    assert told["attributes"] == {"num_processes": 1}


def test_checkpoint_that_tells_no_number_is_resumed(prepared, tmp_path):
    make_trainer(prepared, tmp_path, max_steps=4, save_steps=2).train()
    path = tmp_path / "checkpoint-2" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["NumProcesses"]
    path.write_text(json.dumps(state))
    expected = weights_of(tmp_path / "checkpoint-4")
    make_trainer(prepared, tmp_path, max_steps=4, save_steps=2).train(str(tmp_path / "checkpoint-2"))
    for name, values in weights_of(tmp_path / "checkpoint-4").items():
        assert torch.equal(values, expected[name]), name


def test_early_stopping_may_be_added_where_a_run_goes_on(prepared, tmp_path):
    make_trainer(prepared, tmp_path, max_steps=2, save_steps=2).train()
    trainer = make_trainer(
        prepared, tmp_path, max_steps=4, save_steps=2, eval_strategy="steps", eval_steps=2, load_best_model_at_end=True
    )
    trainer.add_callback(EarlyStoppingCallback(5))
    trainer.train(str(tmp_path / "checkpoint-2"))
    assert is_complete(tmp_path / "checkpoint-4")
    told = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert told["EarlyStoppingCallback"]["args"]["early_stopping_patience"] == 5
    assert told["NumProcesses"]["attributes"] == {"num_processes": 1} and "TrainerControl" in told


@pytest.mark.parametrize("max_steps", [4, 3])
def test_run_that_is_resumed_at_its_end_takes_no_step(prepared, tmp_path, max_steps):
    make_trainer(prepared, tmp_path, max_steps=4, save_steps=2).train()
    expected = weights_of(tmp_path / "checkpoint-4")
    trainer = make_trainer(prepared, tmp_path, max_steps=max_steps, save_steps=2)
    assert trainer.train(str(tmp_path / "checkpoint-4")).global_step == 4
    for name, values in trainer.model.state_dict().items():
        assert torch.equal(values, expected[name]), name
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}


@pytest.mark.slow
def test_run_goes_on_with_more_and_with_fewer_processes(prepared, tmp_path):
    """Two processes train; from their checkpoints, four and one go on, and from that of four, two."""
    arguments = ["--dataset", prepared, *TINY, *SHORT, "--hidden_dropout", "0.0"]
    finish(launch([*arguments, "--output_dir", tmp_path / "2"], processes=2))
    expected = weights_of(tmp_path / "2" / "checkpoint-12")
    for source, step, processes in (("2", 4, 4), ("2", 8, 1), ("2-4", 8, 2)):
        run = tmp_path / f"{source}-{processes}"
        shutil.copytree(tmp_path / source / f"checkpoint-{step}", run / f"checkpoint-{step}")
        shutil.copy(tmp_path / source / "run.json", run)
        command = [*arguments, "--output_dir", run, "--resume_from_checkpoint", "auto"]
        finish(launch(command, processes=processes))
        state = json.loads((run / "checkpoint-12" / "trainer_state.json").read_text())
        assert state["log_history"][0]["step"] == 2, "it went on, with the history of the first run"
        assert state["stateful_callbacks"]["NumProcesses"]["attributes"] == {"num_processes": processes}
        assert len(list((run / "checkpoint-12").glob("rng_state*"))) == processes
        for name, values in weights_of(run / "checkpoint-12").items():
            torch.testing.assert_close(values, expected[name], rtol=1e-3, atol=1e-4, msg=f"{run.name}, {name}")
