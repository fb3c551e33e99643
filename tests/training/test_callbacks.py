"""Averaged weights and clipped gradients."""

import json
import shutil

import pytest
import torch
from transformers import TrainerCallback

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.training.callbacks import RAW_WEIGHTS, ClipEachGradient, WeightAverage, clip_gradients
from tests.training.runs import SHORT, TINY, assert_close, finish, launch, make_trainer, options, run, tiny_model
from tests.training.runs import weights_of as averaged

OPTIONS = {
    "max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "eval_strategy": "steps", "eval_steps": 2,
    "save_steps": 2, "per_device_eval_batch_size": 64,
}  # fmt: skip
# Steps 0 to 2 have the decays 0.1, 2 / 11 and 0.25, and from then on 0.3 is less than (1 + t) / (10 + t).
DECAY = 0.3


class Record(TrainerCallback):
    """Record the weights before the first step and after every step."""

    def __init__(self):
        self.weights = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.weights.append(copy_of(model))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(copy_of(model))


def copy_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def raw(folder):
    return averaged(folder, RAW_WEIGHTS)


def assert_equal(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def trained(prepared, folder, resume=None, **values):
    """Train with dropout. Returns the trainer and the raw weights of every step."""
    model = tiny_model(hidden_dropout=0.1)
    trainer = make_trainer(prepared, folder, model=model, **{**OPTIONS, "ema_decay": DECAY, **values})
    record = Record()
    trainer.add_callback(record)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, record.weights


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    """Folder, trainer and raw weights of every step of an undisturbed training of 6 steps."""
    folder = tmp_path_factory.mktemp("averaged")
    return folder, *trained(prepared, folder)


def slow_average(weights, decay):
    average = {name: values.double() for name, values in weights[0].items()}
    for step, current in enumerate(weights[1:]):
        kept = min(decay, (1 + step) / (10 + step))
        average = {name: kept * values + (1 - kept) * current[name].double() for name, values in average.items()}
    return {name: values.float() for name, values in average.items()}


def test_checkpoints_hold_the_average_and_the_raw_weights(finished):
    folder, trainer, weights = finished
    for step in (2, 4, 6):
        assert_equal(raw(folder / f"checkpoint-{step}"), weights[step])
        expected = slow_average(weights[: step + 1], DECAY)
        torch.testing.assert_close(averaged(folder / f"checkpoint-{step}"), expected, rtol=1e-5, atol=1e-6)
    assert_equal(copy_of(trainer.model), averaged(folder / "checkpoint-6"))


def test_training_uses_the_raw_weights(finished, prepared, tmp_path):
    assert_equal(trained(prepared, tmp_path, ema_decay=None)[1], finished[2])
    assert not (tmp_path / "checkpoint-6" / RAW_WEIGHTS).exists()


def test_evaluation_in_training_equals_that_of_the_checkpoint(finished, prepared, tmp_path):
    folder, trainer, _ = finished
    measured = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in measured] == [2, 4, 6]
    for entry in measured:
        checkpoint = folder / f"checkpoint-{entry['step']}"
        model = MacaronForExpressionPrediction.from_pretrained(checkpoint)
        again = make_trainer(prepared, tmp_path, model=model, per_device_eval_batch_size=64)
        assert again.evaluate()["eval_loss"] == pytest.approx(entry["eval_loss"], rel=1e-6)
        model.load_state_dict(raw(checkpoint))
        assert again.evaluate()["eval_loss"] != pytest.approx(entry["eval_loss"], rel=1e-6)


def test_raw_weights_are_restored_if_an_evaluation_fails():
    layer, callback = torch.nn.Linear(3, 2), WeightAverage(DECAY)
    before = copy_of(layer)
    callback.weights = [torch.zeros_like(parameter) for parameter in layer.parameters()]
    with pytest.raises(RuntimeError, match="fails"), callback.in_use(layer):
        assert not any(parameter.any() for parameter in layer.parameters())
        raise RuntimeError("fails")
    assert_equal(copy_of(layer), before)


@pytest.mark.parametrize("step", [2, 4])
def test_resumed_training_equals_undisturbed_training(finished, prepared, tmp_path, step):
    folder, trainer, weights = finished
    shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    resumed, later = trained(prepared, tmp_path, resume=str(tmp_path / f"checkpoint-{step}"))
    assert_equal(later, weights[step:])
    for name in (RAW_WEIGHTS, "model.safetensors"):
        assert_close(tmp_path / "checkpoint-6", folder / "checkpoint-6", name)
    losses = [[e["eval_loss"] for e in t.state.log_history if "eval_loss" in e] for t in (resumed, trainer)]
    assert losses[0] == losses[1] and len(losses[0]) == 3


@pytest.mark.parametrize("best", ["true", "false"])
def test_final_folder_holds_the_average(prepared, tmp_path, best):
    final = run(prepared, tmp_path, *SHORT, *options(load_best_model_at_end=best, ema_decay=0.9, learning_rate=1e-2))
    state = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    checkpoint = tmp_path / f"checkpoint-{state['best_global_step'] if best == 'true' else 12}"
    assert_close(final, checkpoint)
    assert any(not torch.equal(values, raw(checkpoint)[name]) for name, values in averaged(final).items())
    assert not list(final.glob("raw*"))
    measured = {e["step"]: e["eval_pearson_r"] for e in state["log_history"] if "eval_pearson_r" in e}
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results["eval_pearson_r"] == pytest.approx(measured[int(checkpoint.name[11:])], abs=1e-6)


@pytest.mark.slow
def test_two_processes_average_and_resume_like_one(prepared, tmp_path):
    words = [*TINY, *SHORT, *options(ema_decay=0.9, max_steps=8, dataset=prepared)]
    one, two = tmp_path / "one", tmp_path / "two"
    finish(launch([*words, "--output_dir", two], processes=2))
    finish(launch([*words, "--output_dir", one]))
    undisturbed = (two / "checkpoint-8").rename(tmp_path / "undisturbed")
    finish(launch([*words, "--output_dir", two, "--resume_from_checkpoint", "auto"], processes=2))
    for name in (RAW_WEIGHTS, "model.safetensors"):
        assert_close(undisturbed, one / "checkpoint-8", name, rtol=1e-3, atol=1e-4)
        assert_close(two / "checkpoint-8", undisturbed, name)


def test_clipping_each_gradient():
    parameters = torch.nn.ParameterDict({"large": torch.ones(100), "small": torch.ones(2)})
    parameters["large"].grad = torch.full((100,), 3.0)
    parameters["small"].grad = torch.tensor([0.1, -0.2])
    ClipEachGradient(0.5, 1.0).on_pre_optimizer_step(None, None, None, model=parameters)
    # 100 values clipped to 0.5 have the norm 5, which is then brought to 1: 0.1 each.
    torch.testing.assert_close(parameters["large"].grad, torch.full((100,), 0.1), rtol=1e-4, atol=0)
    torch.testing.assert_close(parameters["small"].grad, torch.tensor([0.1, -0.2]))


@pytest.mark.parametrize(("value", "norm"), [(0.5, 1.0), (None, 1.0), (0.1, None)])
def test_clipping_all_tensors_at_once_equals_one_after_another(make_model, value, norm):
    models = make_model(), make_model()
    clip_gradients(models[0].parameters(), value, norm)  # without gradients nothing happens
    generator = torch.Generator().manual_seed(0)
    for parameter, other in list(zip(*(model.parameters() for model in models), strict=True))[1:]:
        parameter.grad = 0.3 * torch.randn(parameter.shape, generator=generator)
        other.grad = parameter.grad.clone()
        if value is not None:
            torch.nn.utils.clip_grad_value_(parameter, value)
        if norm is not None:
            torch.nn.utils.clip_grad_norm_(parameter, norm)
    clip_gradients(models[1].parameters(), value, norm)
    for expected, parameter in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)
