"""Training on the CPU: the library's recipe and the paper's model, plain and as `train_on_cpu` makes them."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import torch

from benchmarks.figures import Results
from benchmarks.inference import SIZES, random_ids
from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.machine import keep_freed_memory
from modeling_macaron.training.cpu import train_on_cpu

LIBRARY = {
    "hidden_size": 128, "num_attention_heads": 4, "head_dim": 32, "intermediate_size": 256,
    "num_expression_positions": 8, "hidden_dropout": 0.2, "reconstruction_weight": 0.0,
}  # fmt: skip
_STEPS = 5


def run(results: Results, size: str, _: Path) -> None:
    """Time training steps in bfloat16 on one thread, in turn; memory is kept from then on, as training does."""
    keep_freed_memory()
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
    torch.manual_seed(0)
    plain = MacaronForExpressionPrediction(MacaronConfig(**fields)).train()
    plain.set_attn_implementation("eager")
    fast, compiled = copy.deepcopy(plain), copy.deepcopy(plain)
    train_on_cpu(fast)
    train_on_cpu(compiled, compile_blocks=True)
    steps = {
        "plain": _make_step(plain, rows, fused=False),
        "masks and convolution": _make_step(fast, rows),
        "compiled": _make_step(compiled, rows),
    }
    started = perf_counter()
    steps["compiled"]()
    results.figure(f"train: {name}, first compiled step", perf_counter() - started, "s")
    seconds = {form: [] for form in steps}
    for _ in range(_STEPS + 1):
        for form, step in steps.items():
            seconds[form].append(_time(step))
    medians = {form: statistics.median(times[1:]) for form, times in seconds.items()}
    for form, median in medians.items():
        results.figure(f"train: {name}, batch {rows}, one thread, {form}", rows / median, "sequences/s")
    results.figure(f"train: {name}, compiled against plain", medians["plain"] / medians["compiled"], "x")


def _time(call: Callable[[], None]) -> float:
    started = process_time()
    call()
    return process_time() - started


def _make_step(model: MacaronForExpressionPrediction, rows: int, *, fused: bool = True) -> Callable[[], None]:
    """Make a training step on random rows, with reconstruction where the model has it."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
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
