"""Training on the CPU: the library's recipe and the paper's model, with their own dropout and with PyTorch's."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import process_time
from unittest import mock

import torch

from benchmarks.figures import Results
from benchmarks.inference import SIZES, random_ids
from modeling_macaron import (
    MacaronConfig,
    MacaronForExpressionPrediction,
    attention_macaron,
    layers_macaron,
)

LIBRARY = {
    "hidden_size": 128, "num_attention_heads": 4, "head_dim": 32, "intermediate_size": 256,
    "num_expression_positions": 8, "hidden_dropout": 0.2, "reconstruction_weight": 0.0,
}  # fmt: skip
_STEPS = 5


def run(results: Results, size: str, _: Path) -> None:
    """Time training steps in bfloat16 on one thread, with the operations made for a CPU and without, in turn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, fields, rows in (
            ("library", LIBRARY if size == "paper" else SIZES[size], 64),
            (size, SIZES[size], 8),
        ):
            _compare(results, name, fields, rows)
    finally:
        torch.set_num_threads(threads)


def _compare(results: Results, name: str, fields: dict, rows: int) -> None:
    """Print the rates of a model, seconds being those of the processor."""
    step, seconds = _make_step(fields, rows), {"PyTorch's operations": [], "own operations": []}
    for _ in range(_STEPS + 1):
        with ExitStack() as replaced:
            for module in (attention_macaron, layers_macaron):
                replaced.enter_context(mock.patch.object(module, "trains_eagerly_on_cpu", lambda *_: False))
            seconds["PyTorch's operations"].append(_time(step))
        seconds["own operations"].append(_time(step))
    medians = {form: statistics.median(times[1:]) for form, times in seconds.items()}
    for form, median in medians.items():
        results.figure(f"train: {name}, batch {rows}, one thread, {form}", rows / median, "sequences/s")
    before, after = medians.values()
    results.figure(f"train: {name}, own operations against PyTorch's", before / after, "x")


def _time(call: Callable[[], None]) -> float:
    started = process_time()
    call()
    return process_time() - started


def _make_step(fields: dict, rows: int) -> Callable[[], None]:
    """Make a training step on random rows, with reconstruction where the model has it."""
    model = MacaronForExpressionPrediction(MacaronConfig(**fields)).train()
    model.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids, labels = random_ids(rows), torch.randn(rows)
    inputs = {"input_ids": ids, "labels": labels, "output_nucleotide_logits": False}
    if model.config.reconstruction_weight:
        masked = torch.rand(ids.shape) < 0.05
        inputs |= {"input_ids": ids.masked_fill(masked, 5), "masked_nucleotides": ids.masked_fill(~masked, -100)}

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()

    return step
