"""Part of the GPU benchmark that compares what the device computes with float64 on the CPU."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch

from benchmarks.gpu_setup import LABELS, Run, make_model, random_batch, release
from modeling_macaron import MacaronForExpressionPrediction

CHECKED_ATTENTIONS = ("eager", "sdpa")
FLOAT64_TOLERANCE = 1e-10
FLOAT32_TOLERANCE = 5e-5  # TF32, which must be off, errs by about 3e-4
AUTOCAST_TOLERANCE = 3e-2
BF16_TOLERANCE = 5e-2
_ROWS = 3
_NOISE = 0.02
_SCORE_SPREAD = 1.5


class Outcome(NamedTuple):
    """What a model gives for a batch.

    Attributes
    ----------
    logits : torch.Tensor
        (batch, 1).
    nucleotide_logits : torch.Tensor
        (batch, length, vocab_size).
    expression_only : torch.Tensor
        (batch, 1) logits without nucleotide logits.
    gradients : dict of torch.Tensor
        Of a training step, by the parameter's name; empty where they are not to be compared.
    """

    logits: torch.Tensor
    nucleotide_logits: torch.Tensor
    expression_only: torch.Tensor
    gradients: dict[str, torch.Tensor]


def relative_error(values: torch.Tensor, reference: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference; huge where a value is not finite."""
    reference = reference.double().cpu()
    error = (torch.linalg.vector_norm(values.double().cpu() - reference) / torch.linalg.vector_norm(reference)).item()
    return error if error < sys.float_info.max else sys.float_info.max


def gradient_error(gradients: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """Largest error of a tensor over its norm plus a thousandth of the norm of all: some gradients are zero."""
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(own) for own in reference.values()]))
    errors = [
        torch.linalg.vector_norm(gradients[name].double().cpu() - own) / (torch.linalg.vector_norm(own) + 1e-3 * total)
        for name, own in reference.items()
    ]
    return torch.stack(errors).nan_to_num(nan=sys.float_info.max, posinf=sys.float_info.max).max().item()


def run_model(
    model: MacaronForExpressionPrediction, batch: dict, backend: str | None = None, autocast: bool = False
) -> Outcome:
    """Take outputs and the gradients of a training step.

    Parameters
    ----------
    model : MacaronForExpressionPrediction
        Without dropout, so that training and evaluation agree.
    batch : dict
        Its inputs and labels.
    backend : str, optional
        Backend of `torch.compile`.
    autocast : bool
        Whether to run under bf16 autocast.

    Returns
    -------
    Outcome
    """
    call = model if backend is None else torch.compile(model, backend=backend, dynamic=False)
    context = torch.autocast(model.device.type, torch.bfloat16) if autocast else nullcontext()
    model.zero_grad()
    with context:
        outputs = call(**batch)
    outputs.loss.backward()
    with torch.inference_mode(), context:
        alone = call(batch["input_ids"], output_nucleotide_logits=False).logits
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return Outcome(outputs.logits.detach(), outputs.nucleotide_logits.detach(), alone, gradients)


def compare(run: Run, name: str, outcome: Outcome, reference: Outcome, tolerance: float) -> None:
    """Add the equalities of two outcomes; the worst tensor's gradient may err twice as much."""
    for output in ("logits", "nucleotide_logits", "expression_only"):
        error = relative_error(getattr(outcome, output), getattr(reference, output))
        run.results.check(f"check: {name}: {output.replace('_', ' ')}", error, tolerance)
    if not outcome.gradients:
        return
    error = gradient_error(outcome.gradients, reference.gradients)
    run.results.check(f"check: {name}: gradients", error, 2 * tolerance)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Multiply float32 as float32, not as TF32."""
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


def make_reference(size: str, layers: int) -> MacaronForExpressionPrediction:
    """Make a plain float64 model on the CPU whose weights are all random: with the initial ones attention is uniform.

    Parameters
    ----------
    size : str
        Key of `SIZES`.
    layers : int
        Blocks.

    Returns
    -------
    MacaronForExpressionPrediction
        Without dropout, with batched products.
    """
    torch.manual_seed(0)
    model = make_model(size, "separate", "eager", "cpu", num_hidden_layers=layers, hidden_dropout=0.0).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(_NOISE * torch.randn_like(parameter))
        for layer in model.macaron.layers:
            for projection in layer.self_attn.children():  # scores spread by about `_SCORE_SPREAD`
                projection.weight.normal_(std=(_SCORE_SPREAD / projection.in_features) ** 0.5)
    return model


def check_outputs(run: Run) -> None:
    """Check outputs and gradients of both projections on the device against float64 on the CPU.

    Parameters
    ----------
    run : Run
        Gets the equalities, and is saved after each projection.
    """
    plain = make_reference(run.size, run.sizes.check_layers)
    models = {"separate": plain, "merged": plain.to_merged()}
    models["merged"].set_attn_implementation("eager")
    batch = random_batch(plain, _ROWS)
    batch["labels"] = batch["labels"].double()
    references = {projections: run_model(model, batch) for projections, model in models.items()}
    outputs = [torch.cat([own.flatten() for own in reference[:3]]) for reference in references.values()]
    name = "check: float64 on the CPU, merged against plain"
    run.results.check(name, relative_error(outputs[1], outputs[0]), FLOAT64_TOLERANCE)
    for projections in run.projections:
        with exact_float32():
            check_projections(run, models[projections], references[projections], batch)
        run.save()


def check_projections(run: Run, model: MacaronForExpressionPrediction, reference: Outcome, batch: dict) -> None:
    """Check one model on the device: float32, bf16 autocast and bf16 weights, as it is and compiled.

    Parameters
    ----------
    run : Run
        Gets the equalities.
    model : MacaronForExpressionPrediction
        float64 on the CPU; left as it is.
    reference : Outcome
        Of this model.
    batch : dict
        Of the reference.
    """
    device_batch = {name: values.to(run.device) for name, values in batch.items()}
    device_batch["labels"] = device_batch["labels"].float()
    label = LABELS[model.config.attention_projections]
    for attention in CHECKED_ATTENTIONS:
        own = copy.deepcopy(model).float().to(run.device)
        own.set_attn_implementation(attention)
        half = copy.deepcopy(own).bfloat16()
        name = f"{label}, {attention}"
        plain = run_model(own, device_batch)
        compare(run, f"{name}, float32", plain, reference, FLOAT32_TOLERANCE)
        outcome = run_model(own, device_batch, autocast=True)
        compare(run, f"{name}, bf16 autocast", outcome, reference, AUTOCAST_TOLERANCE)
        outcome = run_model(half, device_batch)._replace(gradients={})  # nobody trains such weights
        compare(run, f"{name}, bf16 weights", outcome, reference, BF16_TOLERANCE)
        if attention == "sdpa" and "compiled" in run.modes and not run.is_late:
            release(run.device)
            outcome = run_model(own, device_batch, run.backend)
            compare(run, f"{name}, float32, compiled against not", outcome, plain_on_cpu(plain), FLOAT32_TOLERANCE)
            release(run.device)
            outcome = run_model(own, device_batch, run.backend, autocast=True)
            compare(run, f"{name}, bf16 autocast, compiled", outcome, reference, AUTOCAST_TOLERANCE)


def plain_on_cpu(outcome: Outcome) -> Outcome:
    """Return an outcome as a reference: float64 on the CPU."""
    outputs = [own.double().cpu() for own in outcome[:3]]
    return Outcome(*outputs, {name: own.double().cpu() for name, own in outcome.gradients.items()})
