"""A loss that is not finite ends the run, names the rows and saves nothing."""

import numpy as np
import pytest
import torch

from modeling_macaron.training.dataset import PromoterDataset
from tests.training.test_trainer import make_trainer, tiny_model


@pytest.fixture
def spoil(monkeypatch):
    """Give one row of the source a label that preparation would reject."""

    def spoil_row(row):
        read = PromoterDataset.__getitems__

        def read_spoilt(self, indices):
            batch = read(self, indices)
            return {**batch, "labels": np.where(batch["row"] == row, np.float32(3e38), batch["labels"])}

        monkeypatch.setattr(PromoterDataset, "__getitems__", read_spoilt)

    return spoil_row


@pytest.mark.parametrize(("logging_steps", "reconstruction_weight"), [(1, 1.0), (3, 0.0), (50, 1.0)])
def test_run_stops_at_a_bad_row_and_saves_nothing(prepared, tmp_path, spoil, logging_steps, reconstruction_weight):
    model = tiny_model(reconstruction_weight=reconstruction_weight)
    options = {"max_steps": 40, "save_steps": 40, "per_device_train_batch_size": 16, "logging_steps": logging_steps}
    trainer = make_trainer(prepared, tmp_path, model, **options)
    row = int(trainer.train_dataset[5]["row"][0])
    spoil(row)
    with pytest.raises(FloatingPointError, match=rf"from 1 of 16 rows of a batch \({row}\)"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))
    assert trainer.state.global_step < 40 or logging_steps == 50


def test_diverged_weights_stop_the_run(prepared, tmp_path):
    trainer = make_trainer(prepared, tmp_path, max_steps=4, per_device_train_batch_size=8)
    with torch.no_grad():
        next(trainer.model.expression_head.parameters()).fill_(float("inf"))
    with pytest.raises(FloatingPointError, match=r"step 1, from 8 of 8 rows.*smaller learning rate"):
        trainer.train()


@pytest.mark.parametrize("is_finite_here", [True, False])
def test_every_process_raises_and_those_with_bad_rows_name_them(prepared, tmp_path, monkeypatch, is_finite_here):
    trainer = make_trainer(prepared, tmp_path)
    trainer._check_finite()
    losses = torch.tensor([1.0, 2.0 if is_finite_here else torch.nan, 3.0])
    for step in (0, 1):
        trainer._unchecked.append((step, torch.tensor([7, 8, 9]), losses**step, torch.tensor(0.0)))
    monkeypatch.setattr(trainer.accelerator, "gather", lambda own: torch.cat([own, torch.tensor([False])]))
    message = "another process" if is_finite_here else r"step 2, from 1 of 3 rows of a batch \(8\)"
    with pytest.raises(FloatingPointError, match=message):
        trainer._check_finite()
