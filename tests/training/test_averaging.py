"""Averaged weights: evaluated, saved and resumed, while training goes on from the raw ones."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.training.arguments import MacaronTrainingArguments, parse_recipe
from modeling_macaron.training.callbacks import RAW_WEIGHTS, WeightAverage
from modeling_macaron.training.checkpoints import find_checkpoint, is_complete
from modeling_macaron.training.run import train
from tests.training.test_run import RECIPE, SHORT, TINY, finish, launch
from tests.training.test_trainer import make_trainer, tiny_model

OPTIONS = {
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "per_device_eval_batch_size": 64,
}
# Steps 0 to 2 have the decays 0.1, 2 / 11 and 0.25, and from then on 0.3 is less than (1 + t) / (10 + t).
DECAY = 0.3


class Record(TrainerCallback):
    """Keep the model's weights before the first step and after every one."""

    def __init__(self):
        self.weights = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.weights.append(copy_of(model))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(copy_of(model))


def copy_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def averaged(folder):
    return load_file(Path(folder) / "model.safetensors")


def raw(folder):
    return load_file(Path(folder) / RAW_WEIGHTS)


def assert_equal(got, expected):
    assert got.keys() == expected.keys() and len(got) > 10
    for name, values in expected.items():
        assert torch.equal(got[name], values), name


def differ(weights, others):
    return any(not torch.equal(values, others[name]) for name, values in weights.items())


def trained(prepared, folder, resume=None, **options):
    """Train with dropout; the trainer and the raw weights of every step."""
    model = tiny_model(hidden_dropout=0.1)
    trainer = make_trainer(prepared, folder, model=model, **{**OPTIONS, "ema_decay": DECAY, **options})
    record = Record()
    trainer.add_callback(record)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, record.weights


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    """An undisturbed training of 6 steps: its folder, its trainer, and the raw weights of every step."""
    folder = tmp_path_factory.mktemp("averaged")
    return folder, *trained(prepared, folder)


def slow_average(weights, decay):
    average = {name: values.double() for name, values in weights[0].items()}
    for step, current in enumerate(weights[1:]):
        kept = min(decay, (1 + step) / (10 + step))
        for name in average:
            average[name] = kept * average[name] + (1 - kept) * current[name].double()
    return average


@pytest.mark.parametrize("decay", [0.05, 0.3, 0.9999])
def test_average_is_the_slow_obvious_one(decay):
    layer = torch.nn.Linear(5, 3)
    callback, history = WeightAverage(decay), []
    arguments = MacaronTrainingArguments(output_dir="unused", report_to="none", use_cpu=True)
    state = type("State", (), {"global_step": 0, "best_model_checkpoint": None})()
    callback.on_train_begin(arguments, state, None, model=layer)
    history.append(copy_of(layer))
    for state.global_step in range(20):
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter += torch.randn_like(parameter)
        callback.on_optimizer_step(arguments, state, None, model=layer)
        history.append(copy_of(layer))
    callback.on_train_end(arguments, state, None, model=layer)
    for name, values in slow_average(history, decay).items():
        torch.testing.assert_close(layer.get_parameter(name).double(), values, rtol=1e-5, atol=1e-6)


def test_checkpoints_hold_the_average_and_the_raw_weights(finished):
    folder, _, weights = finished
    for step in (2, 4, 6):
        checkpoint = folder / f"checkpoint-{step}"
        assert_equal(raw(checkpoint), weights[step])
        expected = slow_average(weights[: step + 1], DECAY)
        for name, values in averaged(checkpoint).items():
            torch.testing.assert_close(values.double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_training_is_that_of_the_raw_weights(finished, prepared, tmp_path):
    _, _, weights = finished
    without = trained(prepared, tmp_path, ema_decay=None)[1]
    assert len(weights) == len(without) == 7
    for got, expected in zip(weights, without, strict=True):
        assert_equal(got, expected)
    assert not (tmp_path / "checkpoint-6" / RAW_WEIGHTS).exists()


def test_evaluation_in_training_is_that_of_the_checkpoint(finished, prepared, tmp_path):
    folder, trainer, _ = finished
    measured = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in measured] == [2, 4, 6]
    for entry in measured:
        checkpoint = folder / f"checkpoint-{entry['step']}"
        model = MacaronForExpressionPrediction.from_pretrained(checkpoint)
        assert_equal(copy_of(model), averaged(checkpoint))
        again = make_trainer(prepared, tmp_path, model=model, per_device_eval_batch_size=64)
        assert again.evaluate()["eval_loss"] == pytest.approx(entry["eval_loss"], rel=1e-6)
        model.load_state_dict(raw(checkpoint))
        assert again.evaluate()["eval_loss"] != pytest.approx(entry["eval_loss"], rel=1e-6)


def test_prediction_in_training_is_that_of_the_average(prepared, tmp_path):
    class Predict(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            before = copy_of(model)
            self.predicted = trainer.predict(trainer.eval_dataset).predictions["expression"]
            assert_equal(copy_of(model), before)

    trainer = make_trainer(prepared, tmp_path, **{**OPTIONS, "max_steps": 2}, ema_decay=DECAY)
    callback = Predict()
    trainer.add_callback(callback)
    trainer.train()
    other = make_trainer(
        prepared, tmp_path, model=MacaronForExpressionPrediction.from_pretrained(tmp_path / "checkpoint-2")
    )
    expected = other.predict(other.eval_dataset).predictions["expression"]
    assert callback.predicted == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_raw_weights_come_back_after_an_evaluation_that_fails():
    layer, callback = torch.nn.Linear(3, 2), WeightAverage(DECAY)
    before = copy_of(layer)
    callback.weights = [torch.zeros_like(parameter) for parameter in layer.parameters()]
    with pytest.raises(RuntimeError, match="fails"), callback.in_use(layer):
        assert not any(parameter.any() for parameter in layer.parameters())
        raise RuntimeError("fails")
    for name, values in before.items():
        assert torch.equal(layer.get_parameter(name), values)


@pytest.mark.parametrize("step", [2, 4])
def test_resumed_training_is_the_undisturbed_one(finished, prepared, tmp_path, step):
    folder, trainer, weights = finished
    shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    resumed, later = trained(prepared, tmp_path, resume=str(tmp_path / f"checkpoint-{step}"))
    for got, expected in zip(later, weights[step:], strict=True):
        assert_equal(got, expected)
    assert_equal(raw(tmp_path / "checkpoint-6"), raw(folder / "checkpoint-6"))
    assert_equal(averaged(tmp_path / "checkpoint-6"), averaged(folder / "checkpoint-6"))
    losses = [[e["eval_loss"] for e in t.state.log_history if "eval_loss" in e] for t in (resumed, trainer)]
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_trained_model_is_the_last_average_or_the_best_one(finished, prepared, tmp_path):
    folder, trainer, _ = finished
    assert_equal(copy_of(trainer.model), averaged(folder / "checkpoint-6"))
    trainer.save_model(tmp_path / "saved")
    assert_equal(averaged(tmp_path / "saved"), averaged(folder / "checkpoint-6"))
    assert not (tmp_path / "saved" / RAW_WEIGHTS).exists()

    # The largest loss is "best", which is not that of the last step.
    best, _ = trained(
        prepared, tmp_path / "best", load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=True
    )
    losses = {entry["step"]: entry["eval_loss"] for entry in best.state.log_history if "eval_loss" in entry}
    largest = max(losses, key=losses.get)
    assert best.state.best_global_step == largest != 6
    assert_equal(copy_of(best.model), averaged(tmp_path / "best" / f"checkpoint-{largest}"))
    assert differ(averaged(tmp_path / "best" / f"checkpoint-{largest}"), averaged(tmp_path / "best" / "checkpoint-6"))


@pytest.mark.parametrize(("then", "now"), [(DECAY, None), (None, DECAY), (DECAY, 0.5)])
def test_resuming_with_another_option_is_refused(finished, prepared, tmp_path, then, now):
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copytree(finished[0] / "checkpoint-2", checkpoint)
    if then is None:
        (checkpoint / RAW_WEIGHTS).unlink()
    names = [f"--ema_decay {decay}" if decay else "no --ema_decay" for decay in (then, now)]
    with pytest.raises(ValueError, match=f"trained with {names[0]}, and would go on with {names[1]}"):
        trained(prepared, tmp_path, resume=str(checkpoint), ema_decay=now)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_impossible_decay_is_refused(prepared, decay):
    with pytest.raises(ValueError, match="ema_decay must lie between 0 and 1"):
        parse_recipe([RECIPE, "--dataset", str(prepared), "--output_dir", "x", "--ema_decay", str(decay)])


def test_decay_is_an_option(prepared):
    command = [RECIPE, "--dataset", str(prepared), "--output_dir", "x"]
    assert parse_recipe(command)[1].ema_decay is None
    assert parse_recipe([*command, "--ema_decay", "0.999"])[1].ema_decay == 0.999


def test_checkpoints_without_readable_raw_weights_are_passed_over(finished, prepared, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)

    def find(resume="auto", *options):
        command = [RECIPE, "--dataset", str(prepared), "--output_dir", str(tmp_path), "--resume_from_checkpoint"]
        return find_checkpoint(parse_recipe([*command, str(resume), *options])[1])

    with_average = ("--ema_decay", str(DECAY))
    six, four, two = (tmp_path / f"checkpoint-{step}" for step in (6, 4, 2))
    assert find("auto", *with_average) == find("auto") == str(six)
    (six / RAW_WEIGHTS).unlink()
    assert is_complete(six) and not is_complete(six, averaging=True)
    assert find("auto", *with_average) == str(four)
    (four / RAW_WEIGHTS).write_bytes((four / RAW_WEIGHTS).read_bytes()[:1000])
    assert find("auto", *with_average) == str(two)
    with pytest.raises(ValueError, match="no complete checkpoint"):
        find(four, *with_average)
    shutil.rmtree(two)
    for asked in ("auto", six):
        with pytest.raises(ValueError, match=r"checkpoint-6 has no raw_weights\.safetensors: .* without --ema_decay"):
            find(asked, *with_average)
    shutil.rmtree(six)
    assert find("auto", *with_average) is None


def test_raw_weights_are_written_before_the_state_that_completes_a_checkpoint(prepared, tmp_path, monkeypatch):
    def stop(self, path):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.trainer.TrainerState.save_to_json", stop)
    with pytest.raises(KeyboardInterrupt):
        trained(prepared, tmp_path)
    assert len(raw(tmp_path / "checkpoint-2")) > 10


@pytest.mark.parametrize("best", ["true", "false"])
def test_final_folder_holds_the_average(prepared, tmp_path, best):
    options = [*TINY, *SHORT, "--load_best_model_at_end", best, "--ema_decay", "0.9", "--learning_rate", "1e-2"]
    final = train(*parse_recipe([RECIPE, "--dataset", str(prepared), "--output_dir", str(tmp_path), *options]))
    state = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    checkpoint = tmp_path / f"checkpoint-{state['best_global_step'] if best == 'true' else 12}"
    assert_equal(averaged(final), averaged(checkpoint))
    assert differ(averaged(final), raw(checkpoint))
    assert not list(final.glob("raw*"))
    measured = {e["step"]: e["eval_pearson_r"] for e in state["log_history"] if "eval_pearson_r" in e}
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results["eval_pearson_r"] == pytest.approx(measured[int(checkpoint.name[11:])], abs=1e-6)


@pytest.mark.slow
def test_two_processes_average_and_resume_as_one_does(prepared, tmp_path):
    options = [*TINY, *SHORT, "--ema_decay", "0.9", "--max_steps", "8", "--dataset", prepared]
    finish(launch([*options, "--output_dir", tmp_path / "two"], processes=2))
    train(*parse_recipe([RECIPE, *map(str, options), "--output_dir", str(tmp_path / "one")]))
    undisturbed = {load: load(tmp_path / "two" / "checkpoint-8") for load in (averaged, raw)}
    for load, weights in undisturbed.items():
        for name, values in load(tmp_path / "one" / "checkpoint-8").items():
            torch.testing.assert_close(weights[name], values, rtol=1e-3, atol=1e-4, msg=name)
    shutil.rmtree(tmp_path / "two" / "checkpoint-8")
    resume = ["--output_dir", tmp_path / "two", "--resume_from_checkpoint", "auto"]
    finish(launch([*options, *resume], processes=2))
    for load, weights in undisturbed.items():
        assert_equal(load(tmp_path / "two" / "checkpoint-8"), weights)
