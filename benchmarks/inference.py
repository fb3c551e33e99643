"""Inference on the CPU: merged projections, expression only and bfloat16 weights, compared with the plain model."""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.figures import Results, relative_error, time_in_turn
from benchmarks.models import make_model, random_ids
from modeling_macaron import MacaronForExpressionPrediction

BATCH_SIZE = 64
_FORMS = {  # whether merged, whether with nucleotide logits
    "plain": (False, True),
    "expression only": (False, False),
    "merged": (True, True),
    "merged, expression only": (True, False),
}


@torch.inference_mode()
def run(results: Results, args: argparse.Namespace, _: Path) -> None:
    """Check that all forms give equal numbers, and time them."""
    plain = make_model(args.size).eval()
    _check_equality(results, plain)
    models = {False: plain, True: plain.to_merged()}
    for name, is_merged in (("plain", False), ("merged", True)):
        results.figure(f"parameters, {name}", models[is_merged].num_parameters(), "")
    ids = random_ids(BATCH_SIZE)
    expected = plain(ids).logits.double()
    calls = _make_calls(models, ids)
    seconds = time_in_turn(calls, rounds=3)
    for (form, weights, attention), taken in seconds.items():
        results.row(
            "inference", form=form, weights=weights, attention=attention, sequences_per_second=BATCH_SIZE / taken,
            largest_error=(calls[form, weights, attention]().double() - expected).abs().max().item(),
        )  # fmt: skip
    slowest = seconds["plain", "float32", "sdpa"]
    results.figure(f"plain float32, batch {BATCH_SIZE}", BATCH_SIZE / slowest, "sequences/s")
    for weights in ("float32", "bfloat16"):
        has_none = weights == "bfloat16" and not {"avx512_bf16", "amx_bf16"} & set(results.machine["instruction_sets"])
        results.figure(
            f"merged + expression only, {weights}, against plain float32",
            slowest / seconds["merged, expression only", weights, "sdpa"], "x", shown=True,
            note="the processor has no AVX512-BF16 or AMX" if has_none else "",
        )  # fmt: skip
    for name, form in (("plain", "expression only"), ("merged", "merged, expression only")):
        rms = (calls[form, "bfloat16", "sdpa"]().double() - expected).square().mean().sqrt().item()
        results.figure(f"error of bfloat16, {name} (root mean square)", rms, "standard deviations of expression")


def _check_equality(results: Results, model: MacaronForExpressionPrediction) -> None:
    """Compare the forms in float32 and float64."""
    ids = random_ids(4)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        plain = copy.deepcopy(model).to(dtype)
        merged = plain.to_merged()
        expected, found = plain(ids), merged(ids)
        name = str(dtype).removeprefix("torch.")
        pairs = {
            "merged = plain, expression": (found.logits, expected.logits),
            "merged = plain, nucleotides": (found.nucleotide_logits, expected.nucleotide_logits),
        } | {
            f"expression only = {form}": (one(ids, output_nucleotide_logits=False).logits, expected.logits)
            for form, one in (("plain", plain), ("merged", merged))
        }
        for equality, values in pairs.items():
            results.check(f"{equality}, {name}", relative_error(*values), tolerance)


def _make_calls(
    models: dict[bool, MacaronForExpressionPrediction], ids: torch.Tensor
) -> dict[tuple[str, str, str], Callable[[], torch.Tensor]]:
    """Make the call of each form, dtype of weights and kind of attention. A call returns the logits (rows, 1)."""
    calls = {}
    for attention in ("sdpa", "eager"):
        for weights in ("float32", "bfloat16"):
            own = {merged: copy.deepcopy(model).to(getattr(torch, weights)) for merged, model in models.items()}
            for model in own.values():
                model.set_attn_implementation(attention)
            for form, (is_merged, everything) in _FORMS.items():
                call = functools.partial(own[is_merged], ids, output_nucleotide_logits=everything)
                calls[form, weights, attention] = lambda call=call: call().logits
    return calls
