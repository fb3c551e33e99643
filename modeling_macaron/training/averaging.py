"""Exponential moving average of the weights: train the raw ones, evaluate and keep their average."""

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
    """Average the parameters over the optimizer steps of a training.

    After step t (from 0) the average moves to `d * average + (1 - d) * weights` with
    `d = min(decay, (1 + t) / (10 + t))`: the early steps, and the random start, are forgotten. During training the
    model holds the raw weights, see `in_use`; when training ends it is given the average (or, by the Trainer, the best
    checkpoint, which holds one).

    Parameters
    ----------
    decay : float
        Share of the old average that is kept at a step, between 0 and 1.

    Attributes
    ----------
    weights : list of torch.Tensor or None
        Averages in the order of `model.parameters()`; None outside training.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.weights = None

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        """Start from the model's weights; of a resumed training, `restore` has set the average."""
        if state.global_step == 0:
            self.weights = _copies(model)

    def on_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        """Move the average towards the weights after a step, all tensors at once."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        get_ema_multi_avg_fn(decay)(self.weights, _parameters(model), None)

    def on_train_end(self, args, state, control, model=None, **kwargs) -> None:
        """Give the model the last average, where the Trainer has not loaded the best checkpoint."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint is not None):
            torch._foreach_copy_(_parameters(model), self.weights)
        self.weights = None

    @contextmanager
    def in_use(self, model: torch.nn.Module) -> Iterator[None]:
        """Let the model hold the average for a while, then the raw weights again; outside training do nothing.

        Parameters
        ----------
        model : torch.nn.Module
            The model that is trained, wrapped or not. Its tensors stay the same and take other values.
        """
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
        """Write the raw weights beside the averaged ones of a checkpoint.

        Parameters
        ----------
        model : torch.nn.Module
            The unwrapped model.
        folder : str or Path
            Checkpoint; made where it is not there.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model(model, str(Path(folder) / RAW_WEIGHTS), metadata={"format": "pt", "ema_decay": repr(self.decay)})

    def restore(self, model: torch.nn.Module, folder: str | Path) -> None:
        """Take the average from a model that holds a checkpoint's weights, and give it the checkpoint's raw weights.

        Parameters
        ----------
        model : torch.nn.Module
            The unwrapped model, with the weights of `model.safetensors`.
        folder : str or Path
            Checkpoint that `save_raw` wrote to.
        """
        self.weights = _copies(model)
        load_model(model, Path(folder) / RAW_WEIGHTS)


def check_same_decay(checkpoint: str | Path, decay: float | None) -> None:
    """Check that a checkpoint was trained with the decay with which training is to go on.

    Parameters
    ----------
    checkpoint : str or Path
        Folder `checkpoint-STEP`.
    decay : float, optional
        Without it, weights are not averaged.

    Raises
    ------
    ValueError
        If only one of both averages, the decays differ, or the raw weights cannot be read.
    """
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
    """Give the parameters' own tensors, without gradients."""
    return [parameter.detach() for parameter in model.parameters()]


def _copies(model: torch.nn.Module) -> list[torch.Tensor]:
    """Copy the parameters."""
    return [parameter.detach().clone() for parameter in model.parameters()]
