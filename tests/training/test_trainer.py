"""The Trainer's loss: exact under accumulation, and measured over whole splits."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import EvalPrediction, TrainerCallback, get_inverse_sqrt_schedule

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.training.collator import PromoterCollator
from modeling_macaron.training.dataset import PreparedData
from modeling_macaron.training.metrics import compute_metrics, correlation
from modeling_macaron.training.trainer import MacaronTrainer
from tests.training.runs import make_trainer, tiny_model


def gradients_of_first_step(trainer):
    """Gradients just before the first optimizer step, and the logged loss."""
    seen = {}

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            seen.update({name: parameter.grad.clone() for name, parameter in model.named_parameters()})

    trainer.add_callback(Catch())
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    return seen, logged


def test_compiled_training_has_the_same_gradients_and_names(prepared, tmp_path):
    options = {"per_device_train_batch_size": 8, "max_grad_norm": 0.0}
    expected, logged = gradients_of_first_step(make_trainer(prepared, tmp_path / "plain", **options))
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    trainer = make_trainer(prepared, tmp_path / "compiled", **options, **compiled)
    got, logged_compiled = gradients_of_first_step(trainer)
    assert logged_compiled["loss"] == pytest.approx(logged["loss"], rel=1e-5)
    torch.testing.assert_close(
        {name.removeprefix("_orig_mod."): values for name, values in got.items()}, expected, rtol=1e-4, atol=1e-6
    )
    trainer.save_model(tmp_path / "saved")
    info = MacaronForExpressionPrediction.from_pretrained(tmp_path / "saved", output_loading_info=True)[1]
    assert not any(info.values()), info


@pytest.mark.parametrize("fields", [{}, {"reverse_complement": False}])
def test_accumulation_gives_the_loss_and_gradients_of_the_whole_batch(prepared, tmp_path, fields):
    seen = []
    for parts in (1, 4):
        options = {"per_device_train_batch_size": 8 // parts, "gradient_accumulation_steps": parts}
        trainer = make_trainer(prepared, tmp_path / str(parts), tiny_model(**fields), max_grad_norm=0.0, **options)
        seen.append(gradients_of_first_step(trainer))
    (whole, logged), (parts, logged_parts) = seen
    for name in ("loss", "expression_loss", "reconstruction_loss"):
        assert logged_parts[name] == pytest.approx(logged[name], rel=1e-5), name
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
    assert math.isfinite(trainer.evaluate()["eval_reconstruction_loss"])


@pytest.mark.parametrize("fields", [{}, {"pooling": "mean"}])
def test_without_reconstruction_gradients_come_from_the_expression(prepared, tmp_path, fields):
    model = tiny_model(reconstruction_weight=0.0, **fields)
    trainer = make_trainer(prepared, tmp_path, model=model, max_grad_norm=0.0)
    got, logged = gradients_of_first_step(trainer)
    reference = tiny_model(reconstruction_weight=0.0, **fields)
    assert "reconstruction_loss" not in logged and math.isfinite(logged["expression_loss"])
    assert not got["nucleotide_head.weight"].any(), "zero, not None: distributed training needs a gradient"
    whole = make_trainer(prepared, tmp_path / "whole", model=reference, max_grad_norm=0.0)
    whole.__class__ = type("BothHeads", (MacaronTrainer,), {"_reconstructs": True})
    expected, _ = gradients_of_first_step(whole)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    metrics = trainer.evaluate()
    assert "eval_reconstruction_loss" not in metrics
    assert metrics["eval_loss"] == metrics["eval_expression_loss"]


@pytest.mark.slow
def test_logged_loss_is_its_two_terms(prepared, tmp_path):
    trainer = make_trainer(prepared, tmp_path, tiny_model(reconstruction_weight=0.5), max_steps=4, logging_steps=2)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 2
    for entry in logged:
        total = entry["expression_loss"] + 0.5 * entry["reconstruction_loss"]
        assert entry["loss"] == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(("batch_size", "drop_last"), [(7, True), (7, False), (1000, True)])
def test_evaluation_measures_the_whole_split_unmasked(prepared, tmp_path, batch_size, drop_last):
    options = {"per_device_eval_batch_size": batch_size, "dataloader_drop_last": drop_last}
    trainer = make_trainer(prepared, tmp_path, **options)
    measured = trainer.evaluate()
    data = PreparedData(prepared)
    collate = PromoterCollator(data.expression_mean, data.expression_std, mask_probability=0.2, evaluation=True)
    batch = collate(data.validation.__getitems__(range(len(data.validation))))
    model = trainer.model.eval()
    with torch.no_grad():
        clean = model(batch["input_ids"], labels=batch["labels"])
        masked = model(batch["masked_input_ids"], masked_nucleotides=batch["masked_nucleotides"])
    predicted, labels = clean.logits.flatten().numpy(), batch["labels"].numpy()
    assert measured["eval_expression_loss"] == pytest.approx(clean.loss.item(), rel=1e-5)
    assert measured["eval_reconstruction_loss"] == pytest.approx(masked.loss.item(), rel=1e-5)
    assert measured["eval_loss"] == pytest.approx(clean.loss.item() + masked.loss.item(), rel=1e-5)
    assert measured["eval_pearson_r"] == pytest.approx(stats.pearsonr(predicted, labels).statistic, abs=1e-5)
    assert measured["eval_spearman_rho"] == pytest.approx(stats.spearmanr(predicted, labels).statistic, abs=1e-5)


@pytest.mark.slow
def test_training_learns(prepared, tmp_path):
    trainer = make_trainer(
        prepared, tmp_path, max_steps=60, per_device_train_batch_size=32, learning_rate=1e-2, logging_steps=10
    )
    before = trainer.evaluate()["eval_expression_loss"]
    trainer.train()
    losses = [entry["expression_loss"] for entry in trainer.state.log_history if "expression_loss" in entry]
    assert losses[-1] < 0.9 * losses[0]
    assert trainer.evaluate()["eval_expression_loss"] < before


def test_batches_do_not_depend_on_worker_processes(prepared, tmp_path):
    batches = []
    for workers in (0, 2):
        trainer = make_trainer(prepared, tmp_path, dataloader_num_workers=workers, per_device_train_batch_size=16)
        loader = trainer.get_train_dataloader()
        loader.set_epoch(3)
        batches.append(list(loader))
    assert len(batches[0]) == len(batches[1]) > 10
    torch.testing.assert_close(batches[1], batches[0])


def test_schedule_equals_the_original():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=512**-0.5 * 12500**-0.5)
    schedule = get_inverse_sqrt_schedule(optimizer, num_warmup_steps=12500)
    factor = schedule.lr_lambdas[0]
    base = schedule.base_lrs[0]
    for step, expected in ((0, 0.0), (1, 3.16e-8), (12500, 3.953e-4), (50000, 1.976e-4), (250000, 8.84e-5)):
        assert base * factor(step) == pytest.approx(expected, rel=2e-3)


def test_correlations_equal_scipy_and_are_zero_if_undefined():
    rng = np.random.default_rng(0)
    predicted, measured = rng.normal(size=50), rng.normal(size=50)
    assert correlation(predicted, measured) == pytest.approx(stats.pearsonr(predicted, measured).statistic)
    assert correlation(predicted, measured, "spearman") == pytest.approx(stats.spearmanr(predicted, measured).statistic)
    assert correlation(np.ones(50), measured) == 0.0


def test_reconstruction_measure_is_a_sum_over_a_count():
    values = {"expression": [0.0, 1.0], "loss": [0.0, 1.0], "entropy": [2.0, 4.0], "masked": [1, 2]}
    predictions = {name: np.array(value) for name, value in values.items()}
    metrics = partial(compute_metrics, reconstruction_weight=2.0)(EvalPrediction(predictions, np.array([0.0, 0.0])))
    assert metrics["reconstruction_loss"] == pytest.approx(6 / 4)
    assert metrics["expression_loss"] == pytest.approx(0.5)
    assert metrics["loss"] == pytest.approx(0.5 + 2 * 1.5)
    assert math.isfinite(metrics["pearson_r"])


@pytest.mark.slow
def test_accumulation_takes_the_same_steps_over_whole_epochs(prepared, tmp_path):
    """320 rows are two batches of 120 and a remainder, which is dropped."""
    losses, epochs = [], []
    for parts in (1, 4):
        options = {"per_device_train_batch_size": 120 // parts, "gradient_accumulation_steps": parts}
        trainer = make_trainer(prepared, tmp_path / str(parts), max_steps=7, dataloader_drop_last=True, **options)
        trainer.train()
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        losses.append([entry["loss"] for entry in logged])
        epochs.append([entry["epoch"] for entry in logged])
        assert trainer.train_dataset[0]["epoch"] == 3, "masks change with the epoch"
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert epochs[0] == epochs[1] == pytest.approx([0.5, 1, 1.5, 2, 2.5, 3, 3.5])
