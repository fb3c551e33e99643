"""Stop a run whose loss is no longer a number, and name the rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator

_SHOWN = 10


class FiniteLoss:
    """Remember which rows had a loss that is not finite; nothing waits for a GPU until it is asked.

    Parameters
    ----------
    accelerator : accelerate.Accelerator
        The processes that train together.
    name_row : callable, optional
        How messages call the row of a number; the number alone if not given.
    """

    def __init__(self, accelerator: Accelerator, name_row: Callable[[int], str] = str):
        self._accelerator = accelerator
        self._name_row = name_row
        self._rows: list[torch.Tensor] = []
        self._bad: list[torch.Tensor] = []
        self._steps: list[int] = []

    def note(self, step: int, rows: torch.Tensor, row_losses: torch.Tensor, loss: torch.Tensor) -> None:
        """Take down one batch.

        Parameters
        ----------
        step : int
            Optimizer steps done before it.
        rows : torch.Tensor
            (batch,) numbers of its rows in the source.
        row_losses : torch.Tensor
            (batch,) loss of the expression of each row.
        loss : torch.Tensor
            () loss of the batch; where it alone is not finite, all rows are to blame.
        """
        bad = ~torch.isfinite(row_losses.detach())
        self._bad.append(bad | (~torch.isfinite(loss.detach()) & ~bad.any()))
        self._rows.append(rows)
        self._steps.append(step)

    def check(self) -> None:
        """Look at the batches since the last check. Every process must call it at the same time.

        Raises
        ------
        FloatingPointError
            If a loss was not finite on any process; on the one that had it first, the message names step and rows.
        """
        bad, rows, steps = self._bad, self._rows, self._steps
        self._bad, self._rows, self._steps = [], [], []
        if not bad:
            return
        any_bad = torch.stack([batch.any() for batch in bad])
        number = torch.arange(len(bad), device=any_bad.device)
        own = torch.where(any_bad, number, len(bad)).min()
        first = int(self._accelerator.gather(own.reshape(1)).min())
        if first == len(bad):
            return
        if int(own) > first:
            raise FloatingPointError("the loss is not finite on another process, which tells the rows")
        found = rows[first].to(bad[first].device)[bad[first]].tolist()
        names = [self._name_row(row) for row in found]
        raise FloatingPointError(_message(steps[first] + 1, names, len(rows[first])))


def _message(step: int, rows: list[str], batch_size: int) -> str:
    """Tell what happened and what to do."""
    names = ", ".join(rows[:_SHOWN]) + (", ..." if len(rows) > _SHOWN else "")
    if len(rows) == batch_size:
        cause = "with all rows the weights have diverged: go on from the last checkpoint with a smaller learning rate"
    else:
        cause = "look at their values, or train in float32"
    return f"the loss is not finite at step {step}, from {len(rows)} of {batch_size} rows of a batch ({names}); {cause}"
