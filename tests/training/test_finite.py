"""A loss that is no number ends the run, with the rows named and nothing saved."""

import re

import numpy as np
import pytest
import torch

from modeling_macaron.training.dataset import PromoterDataset
from modeling_macaron.training.trainer import _FiniteLoss
from tests.training.test_trainer import make_trainer, tiny_model


class OneProcess:
    """The part of an Accelerator that is used; `others` says whether the losses of other processes are finite."""

    def __init__(self, *others):
        self.others = list(others)

    def gather(self, own):
        return torch.cat([own, torch.tensor(self.others, dtype=own.dtype)])


def note(guard, step, bad, loss=0.0):
    rows = torch.arange(10 * step, 10 * step + 4)
    losses = torch.tensor([float("nan") if index in bad else 1.0 for index in range(4)])
    guard.note(step, rows, losses, torch.tensor(loss))


def test_first_bad_batch_is_named_and_good_ones_are_forgotten():
    guard = _FiniteLoss(OneProcess())
    note(guard, 0, [])
    guard.check()
    for step, bad in ((1, []), (2, [1, 3]), (3, [0])):
        note(guard, step, bad)
    with pytest.raises(FloatingPointError, match=re.escape("at step 3, from 2 of 4 rows of a batch (21, 23)")):
        guard.check()


def test_loss_without_a_bad_row_blames_all_rows():
    guard = _FiniteLoss(OneProcess())
    note(guard, 0, [], loss=float("inf"))
    with pytest.raises(FloatingPointError, match=r"from 4 of 4 rows.*the weights have diverged"):
        guard.check()


@pytest.mark.parametrize(("others", "own"), [((True,), [2]), ((False,), [2]), ((False,), [])])
def test_every_process_raises_and_those_with_bad_rows_name_them(others, own):
    guard = _FiniteLoss(OneProcess(*others))
    for step, bad in enumerate(([], own, [])):
        note(guard, step, bad)
    with pytest.raises(FloatingPointError, match="step 2, from 1 of 4 rows" if own else "another process"):
        guard.check()


def spoil(monkeypatch, row, value):
    """Give one row of the source a label that no table would get through preparation."""
    read = PromoterDataset.__getitems__

    def spoilt(self, indices):
        batch = read(self, indices)
        return {**batch, "labels": np.where(batch["row"] == row, np.float32(value), batch["labels"])}

    monkeypatch.setattr(PromoterDataset, "__getitems__", spoilt)


@pytest.mark.parametrize("options", [{"logging_steps": 1}, {"logging_steps": 3}, {"logging_steps": 50}])
@pytest.mark.parametrize("reconstruction_weight", [0.0, 1.0])
def test_run_stops_at_a_bad_row_and_saves_nothing(prepared, tmp_path, monkeypatch, options, reconstruction_weight):
    trainer = make_trainer(
        prepared,
        tmp_path,
        tiny_model(reconstruction_weight=reconstruction_weight),
        max_steps=40,
        save_steps=40,
        per_device_train_batch_size=16,
        **options,
    )
    row = int(trainer.train_dataset[5]["row"][0])
    spoil(monkeypatch, row, 3e38)
    with pytest.raises(FloatingPointError, match=rf"from 1 of 16 rows of a batch \({row}\)"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))
    assert trainer.state.global_step < 40 or options["logging_steps"] == 50


def test_diverged_weights_stop_the_run(prepared, tmp_path):
    trainer = make_trainer(prepared, tmp_path, max_steps=4, per_device_train_batch_size=8)
    with torch.no_grad():
        next(trainer.model.expression_head.parameters()).fill_(float("inf"))
    with pytest.raises(FloatingPointError, match=r"step 1, from 8 of 8 rows.*smaller learning rate"):
        trainer.train()


def test_healthy_run_is_not_stopped(prepared, tmp_path):
    trainer = make_trainer(prepared, tmp_path, max_steps=3, gradient_accumulation_steps=2)
    assert trainer.train().global_step == 3
    assert trainer._finite_loss._batches == []
