"""Inference on the CPU: merged projections, the expression alone, and bfloat16 weights, beside the plain model."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from benchmarks.figures import Results, time_in_turn
from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction

SIZES = {
    "paper": {},
    "tiny": {
        "hidden_size": 32, "head_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    },
}  # fmt: skip
BATCH_SIZE = 64
_FORMS = {  # whether merged, whether with nucleotide logits
    "plain": (False, True),
    "expression only": (False, False),
    "merged": (True, True),
    "merged, expression only": (True, False),
}


def make_model(size: str, **fields) -> MacaronForExpressionPrediction:
    """Make a model of a size in evaluation mode; noise on the weights keeps attention from being uniform."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = MacaronForExpressionPrediction(MacaronConfig(**SIZES[size], **fields))
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return model.eval()


def random_ids(rows: int, seed: int = 0) -> torch.Tensor:
    """Token ids (rows, 200) of both strands."""
    forward = torch.randint(0, 4, (rows, 100), generator=torch.Generator().manual_seed(seed))
    return torch.cat([forward, 3 - forward.flip(1)], dim=1)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the largest value."""
    return ((got.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


@torch.inference_mode()
def run(results: Results, size: str, _: Path) -> None:
    """Check that all forms give the same numbers, and time them."""
    models = {False: make_model(size)}
    models[True] = models[False].to_merged()
    _check_equality(results, models[False])
    for name, is_merged in (("plain", False), ("merged", True)):
        results.figure(f"parameters, {name}", models[is_merged].num_parameters(), "")
    ids = random_ids(BATCH_SIZE)
    expected = models[False](ids).logits.double()
    for attention in ("sdpa", "eager"):
        for dtype in (torch.float32, torch.bfloat16):
            _time_forms(results, models, attention, dtype, ids, expected)
    _compare(results, models, ids, expected)


def _check_equality(results: Results, model: MacaronForExpressionPrediction) -> None:
    """Compare the forms in float32 and float64."""
    ids = random_ids(4)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        plain = copy.deepcopy(model).to(dtype)
        exact = plain.to_merged()
        expected, got = plain(ids), exact(ids)
        name = str(dtype).removeprefix("torch.")
        results.check(f"merged = plain, expression, {name}", relative_error(got.logits, expected.logits), tolerance)
        error = relative_error(got.nucleotide_logits, expected.nucleotide_logits)
        results.check(f"merged = plain, nucleotides, {name}", error, tolerance)
        for form, one in (("plain", plain), ("merged", exact)):
            alone = one(ids, output_nucleotide_logits=False).logits
            results.check(f"expression only = {form}, {name}", relative_error(alone, expected.logits), tolerance)


def _time_forms(
    results: Results,
    models: dict[bool, MacaronForExpressionPrediction],
    attention: str,
    dtype: torch.dtype,
    ids: torch.Tensor,
    expected: torch.Tensor,
) -> None:
    """Time all forms with one kind of attention and one dtype of the weights, in turn."""
    models = {is_merged: copy.deepcopy(model).to(dtype) for is_merged, model in models.items()}
    for model in models.values():
        model.set_attn_implementation(attention)
    calls = {
        name: lambda model=models[is_merged], wanted=everything: model(ids, output_nucleotide_logits=wanted).logits
        for name, (is_merged, everything) in _FORMS.items()
    }
    for name, seconds in time_in_turn(calls, rounds=2).items():
        results.row(
            "inference", form=name, weights=str(dtype).removeprefix("torch."), attention=attention,
            sequences_per_second=len(ids) / seconds,
            largest_error=(calls[name]().double() - expected).abs().max().item(),
        )  # fmt: skip


def _compare(
    results: Results, models: dict[bool, MacaronForExpressionPrediction], ids: torch.Tensor, expected: torch.Tensor
) -> None:
    """Time the plain model in float32 and the fastest forms in turn, and give the error of bfloat16."""
    halves = {is_merged: copy.deepcopy(model).to(torch.bfloat16) for is_merged, model in models.items()}
    calls = {
        "plain": lambda: models[False](ids),
        "float32": lambda: models[True](ids, output_nucleotide_logits=False),
        "bfloat16": lambda: halves[True](ids, output_nucleotide_logits=False),
    }
    seconds = time_in_turn(calls)
    results.figure(f"plain float32, batch {BATCH_SIZE}", BATCH_SIZE / seconds["plain"], "sequences/s")
    for weights in ("float32", "bfloat16"):
        name = f"merged + expression only, {weights}, against plain float32"
        has_none = weights == "bfloat16" and not {"avx512_bf16", "amx_bf16"} & set(results.machine["instruction_sets"])
        note = "the processor has no AVX512-BF16 or AMX" if has_none else ""
        results.figure(name, seconds["plain"] / seconds[weights], "x", shown=True, note=note)
    for name, half in (("plain", halves[False]), ("merged", halves[True])):
        rms = (half(ids, output_nucleotide_logits=False).logits.double() - expected).square().mean().sqrt().item()
        results.figure(f"error of bfloat16, {name} (root mean square)", rms, "standard deviations of expression")
