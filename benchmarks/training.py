"""Training on the CPU: the library's recipe and the paper's model, with and without `train_on_cpu`."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import torch

from benchmarks.figures import Results, time_in_turn
from benchmarks.models import make_model, random_batch
from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.machine import keep_freed_memory
from modeling_macaron.training.cpu import train_on_cpu

LIBRARY = {
    "hidden_size": 128, "num_attention_heads": 4, "head_dim": 32, "intermediate_size": 256,
    "num_expression_positions": 8, "hidden_dropout": 0.2, "reconstruction_weight": 0.0,
}  # fmt: skip


def run(results: Results, args: argparse.Namespace, _: Path) -> None:
    """Time training steps in bfloat16 on one thread. Keeps freed memory from then on, as training does."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        library = make_model("paper", "eager", **LIBRARY) if args.size == "paper" else make_model(args.size, "eager")
        _compare(results, "library", library, 64)
        _compare(results, args.size, make_model(args.size, "eager"), 8)
    finally:
        torch.set_num_threads(threads)


def _compare(results: Results, name: str, plain: MacaronForExpressionPrediction, rows: int) -> None:
    """Add the rates of a model in processor time."""
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
    seconds = time_in_turn(steps, rounds=5, clock=process_time)
    for form, taken in seconds.items():
        results.figure(f"train: {name}, batch {rows}, one thread, {form}", rows / taken, "sequences/s")
    results.figure(f"train: {name}, compiled against plain", seconds["plain"] / seconds["compiled"], "x")


def _make_step(model: MacaronForExpressionPrediction, rows: int, *, fused: bool = True) -> Callable[[], None]:
    """Make a training step on random rows, with reconstruction if the model has it."""
    optimizer = torch.optim.AdamW(model.train().parameters(), fused=fused)
    inputs = {**random_batch(model, rows), "output_nucleotide_logits": False}
    if not model.config.reconstruction_weight:
        del inputs["masked_nucleotides"]

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()

    return step
