"""The model as an oracle that many searches ask at once, in full batches."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from tokenization import KmerTokenizer

from .attribution import as_one_hot_module
from .design_search import Request, Search
from .mutants import NUM_BASES, pad_centered
from .predict import predict_bounds


class SearchStopped(Exception):
    """Raised by the progress bar of a search to end it; what was predicted until then counts."""


class Oracle:
    """A model that gives values and gradients of groups of sequences.

    Parameters
    ----------
    model : MacaronForExpressionPrediction
        A model in evaluation mode.
    tokenizer : KmerTokenizer
        Its tokenizer.
    batch_size : int
        Sequences that go through the model at once.
    column : int
        The value to search by: 0 the expression, 1 its lower bound, 2 its upper bound.
    """

    def __init__(
        self, model: MacaronForExpressionPrediction, tokenizer: KmerTokenizer, batch_size: int, column: int = 0
    ):
        self.model, self.batch_size, self.column = model, batch_size, column
        self.module = as_one_hot_module(model, tokenizer)
        self.num_predictions = 0

    def seconds_per_prediction(self, letters: np.ndarray, most: int) -> float:
        """Measure the seconds per prediction on one batch.

        The batch has `most` sequences, at most a full batch, all equal to `letters` (length,).
        """
        batch = pad_centered(
            np.repeat(letters[None], min(most, self.batch_size), axis=0), self.model.config.strand_length
        )
        for rows in (batch[:1], batch):  # the first is slow
            began = time.perf_counter()
            next(predict_bounds(self.model, rows, batch_size=len(batch)))
        return (time.perf_counter() - began) / len(batch)

    def values(self, groups: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Predict groups of sequences (rows, length), in full batches; see `predict_bounds` for (rows, 3 or 1)."""
        strands = np.concatenate([pad_centered(letters, self.model.config.strand_length) for letters in groups])
        values = np.concatenate(list(predict_bounds(self.model, strands, batch_size=self.batch_size)))
        self.num_predictions += len(strands)
        return np.split(values, np.cumsum([len(letters) for letters in groups])[:-1])

    def gradients(self, groups: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Gradients (rows, length, 4) of the expression at each group of sequences (rows, length)."""
        length = self.model.config.strand_length
        strands = np.concatenate([pad_centered(letters, length) for letters in groups])
        batches = [self._gradients(strands[i : i + self.batch_size]) for i in range(0, len(strands), self.batch_size)]
        pieces = np.split(np.concatenate(batches), np.cumsum([len(letters) for letters in groups])[:-1])
        firsts = [(length - letters.shape[1]) // 2 for letters in groups]
        return [
            piece[:, first : first + letters.shape[1]]
            for piece, first, letters in zip(pieces, firsts, groups, strict=True)
        ]

    @torch.enable_grad()
    def _gradients(self, strands: np.ndarray) -> np.ndarray:
        """Gradients (batch, strand_length, 4) of strands (batch, strand_length), float64; the padding is zeros."""
        one_hot = torch.from_numpy(np.eye(NUM_BASES + 1, NUM_BASES)[strands].transpose(0, 2, 1))
        one_hot = one_hot.to(torch.promote_types(self.model.dtype, torch.float32)).to(self.model.device)
        one_hot.requires_grad_()
        (gradients,) = torch.autograd.grad(self.module(one_hot).sum(), one_hot)
        return gradients.cpu().double().numpy().transpose(0, 2, 1)


def run_searches(
    searches: dict[int, Search], known: Sequence[dict[bytes, list[float]]], oracle: Oracle, progress: tqdm
) -> None:
    """Run searches side by side to their ends.

    Parameters
    ----------
    searches : dict of int to generator
        Searches that have not begun, by the number of their start.
    known : sequence of dict of bytes to list of float
        What is predicted for each start, letter ids to expression and bounds in assay units, in order; it grows.
    oracle : Oracle
        The model.
    progress : tqdm
        Counts the predictions; its postfix tells the number of all.
    """
    waiting = {index: next(search) for index, search in searches.items()}
    while waiting:
        before = oracle.num_predictions
        replies = _answer(waiting, known, oracle)
        progress.update(oracle.num_predictions - before)
        progress.set_postfix(predictions=oracle.num_predictions)
        for index, reply in replies.items():
            try:
                waiting[index] = searches[index].send(reply)
            except StopIteration:
                del waiting[index]


def _answer(
    waiting: dict[int, Request], known: Sequence[dict[bytes, list[float]]], oracle: Oracle
) -> dict[int, np.ndarray]:
    """Answer the requests of all searches; no sequence of a start is predicted twice."""
    sloped = {index: request.letters for index, request in waiting.items() if request.gradient}
    valued = {index: request.letters for index, request in waiting.items() if not request.gradient}
    replies = dict(zip(sloped, oracle.gradients(list(sloped.values())), strict=True)) if sloped else {}
    new = {}
    for index, letters in valued.items():
        unknown = {row.tobytes(): row for row in letters if row.tobytes() not in known[index]}
        if unknown:
            new[index] = np.stack(list(unknown.values()))
    for (index, letters), values in zip(new.items(), oracle.values(list(new.values())) if new else [], strict=True):
        known[index].update(zip((row.tobytes() for row in letters), values.tolist(), strict=True))
    for index, letters in valued.items():
        replies[index] = np.array([known[index][row.tobytes()][oracle.column] for row in letters])
    return replies
