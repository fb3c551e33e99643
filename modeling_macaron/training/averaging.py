"""Exponential moving average of the weights, for evaluation and for the saved model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback

RAW_WEIGHTS = "raw_weights.safetensors"


class WeightAverage(TrainerCallback):
    """Average the parameters over optimizer steps; the model holds the raw weights until training ends.

    Step t (from 0) updates the average to `d * average + (1 - d) * weights` with `d = min(decay, (1 + t) / (10 + t))`,
    so that the random start is forgotten.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.weights = None  # averages in the order of `model.parameters()`, during training

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        """Start from the model's weights; a resumed run keeps the average that `restore` has set."""
        if state.global_step == 0:
            self.weights = _copies(model)

    def on_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        """Update the average."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        get_ema_multi_avg_fn(decay)(self.weights, _parameters(model), None)

    def on_train_end(self, args, state, control, model=None, **kwargs) -> None:
        """Load the average into the model, unless the Trainer has loaded the best checkpoint."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint is not None):
            torch._foreach_copy_(_parameters(model), self.weights)
        self.weights = None

    @contextmanager
    def in_use(self, model: torch.nn.Module) -> Iterator[None]:
        """Load the average into the model, in place, for the length of the block; outside training do nothing."""
        if self.weights is None:
            yield
            return
        raw, parameters = _copies(model), _parameters(model)
        torch._foreach_copy_(parameters, self.weights)
        try:
            yield
        finally:
            torch._foreach_copy_(parameters, raw)

    def save_raw(self, model: torch.nn.Module, folder: str | Path) -> None:
        """Write the raw weights of the unwrapped model to a checkpoint folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model(model, str(Path(folder) / RAW_WEIGHTS), metadata={"format": "pt", "ema_decay": repr(self.decay)})

    def restore(self, model: torch.nn.Module, folder: str | Path) -> None:
        """Take the average from the unwrapped model, then load the checkpoint's raw weights into it."""
        self.weights = _copies(model)
        load_model(model, Path(folder) / RAW_WEIGHTS)


def check_same_decay(checkpoint: str | Path, decay: float | None) -> None:
    """Raise a ValueError unless a checkpoint was trained with this decay (None: no averaging)."""
    path = Path(checkpoint) / RAW_WEIGHTS
    saved = None
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                saved = float((file.metadata() or {})["ema_decay"])
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(f"{path}: not the readable raw weights of a training with --ema_decay") from error
    if saved != decay:
        then, now = (f"--ema_decay {value}" if value is not None else "no --ema_decay" for value in (saved, decay))
        raise ValueError(f"{checkpoint} was trained with {then}, and would go on with {now}: use the same")


def _parameters(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in model.parameters()]


def _copies(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]
