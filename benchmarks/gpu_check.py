"""Compare the numbers of a GPU with those of the CPU."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import numpy as np
import torch

from benchmarks.checkpoint import CHECKPOINT
from benchmarks.figures import Results, relative_error
from benchmarks.models import make_model, random_batch
from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.analysis.attribution import integrated_gradients
from modeling_macaron.predictor import Predictor

FLOAT32_TOLERANCE = 5e-5  # TF32 must be off: its error is about 3e-4
AUTOCAST_TOLERANCE = 3e-2
CHECKPOINT_TOLERANCE = 1e-4  # standard deviations of expression
HALF_TOLERANCE = 0.1


def check_models(results: Results, device: torch.device, size: str, backend: str, layers: int) -> None:
    """Compare outputs and gradients of random models with float64 on the CPU."""
    plain = make_reference(size, layers)
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        for label, model in (("plain", plain), ("merged", plain.to_merged())):
            model.set_attn_implementation("eager")
            _check_model(results, f"check: {label}", model, device, backend)
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


def make_reference(size: str, layers: int) -> MacaronForExpressionPrediction:
    """Make a plain float64 model on the CPU whose attention is far from uniform."""
    model = make_model(size, "eager", num_hidden_layers=layers, hidden_dropout=0.0).double()
    with torch.no_grad():
        for layer in model.macaron.layers:
            for projection in layer.self_attn.children():  # gives attention scores a spread of about 1.5
                projection.weight.normal_(std=(1.5 / projection.in_features) ** 0.5)
    return model


def _check_model(
    results: Results, name: str, model: MacaronForExpressionPrediction, device: torch.device, backend: str
) -> None:
    """Check float32 and bf16 autocast with both kinds of attention, and compiled with the recipe's."""
    batch = random_batch(model, 3)
    reference = _run_model(model, {**batch, "labels": batch["labels"].double()})
    batch = {key: values.to(device) for key, values in batch.items()}
    for attention, is_compiled in (("eager", False), ("eager", True), ("sdpa", False)):
        own = copy.deepcopy(model).float().to(device)
        own.set_attn_implementation(attention)
        for autocast, tolerance in ((False, FLOAT32_TOLERANCE), (True, AUTOCAST_TOLERANCE)):
            torch.compiler.reset()
            form = f"{attention}, {'bf16 autocast' if autocast else 'float32'}{', compiled' if is_compiled else ''}"
            outcome = _run_model(own, batch, backend if is_compiled else None, autocast)
            error = gradient_error(outcome.pop("gradients"), reference["gradients"])
            results.check(f"{name}, {form}: gradients", error, 2 * tolerance)
            for output, values in outcome.items():
                results.check(f"{name}, {form}: {output}", relative_error(values, reference[output]), tolerance)


def _run_model(
    model: MacaronForExpressionPrediction, batch: dict, backend: str | None = None, autocast: bool = False
) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
    """Compute the outputs of a model for a batch, and the gradients of its loss."""
    call = model if backend is None else torch.compile(model, backend=backend, dynamic=False)
    context = torch.autocast(model.device.type, torch.bfloat16) if autocast else nullcontext()
    model.zero_grad()
    with context:
        outputs = call(**batch)
    outputs.loss.backward()
    with torch.inference_mode(), context:
        alone = call(batch["input_ids"], output_nucleotide_logits=False).logits
    return {
        "logits": outputs.logits.detach(),
        "nucleotide logits": outputs.nucleotide_logits.detach(),
        "expression only": alone,
        "gradients": {name: parameter.grad.clone() for name, parameter in model.named_parameters()},
    }


def gradient_error(gradients: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """Largest error of a tensor, relative to its norm plus 0.001 of the total norm, since some gradients are zero."""
    norm = torch.linalg.vector_norm
    total = norm(torch.stack([norm(own) for own in reference.values()]))
    errors = [
        norm(gradients[name].double().cpu() - own) / (norm(own) + 1e-3 * total) for name, own in reference.items()
    ]
    return torch.stack(errors).max().item()


def check_checkpoint(results: Results, device: torch.device) -> None:
    """Compare predictions and attributions of this repository's checkpoint with float32 on the CPU."""
    ids = np.random.default_rng(0).integers(0, 4, (5, 80))
    promoters = ["".join("ACGT"[one] for one in row) for row in ids]
    on_cpu = Predictor.from_pretrained(CHECKPOINT, device="cpu")
    spread, reference = on_cpu.config.expression_std, on_cpu.predict(promoters)
    for dtype in ("float32", "bfloat16", "float16"):
        predictor = Predictor.from_pretrained(CHECKPOINT, device=str(device), dtype=dtype)
        error = np.abs(predictor.predict(promoters) - reference).max() / spread
        tolerance = CHECKPOINT_TOLERANCE if dtype == "float32" else HALF_TOLERANCE
        results.check(f"check: checkpoint, predictions, {dtype}", error, tolerance)
    expected, found = (
        np.stack(integrated_gradients(predictor, promoters, steps=8).per_base)
        for predictor in (on_cpu, Predictor.from_pretrained(CHECKPOINT, device=str(device)))
    )
    error = np.abs(found - expected).max() / spread
    results.check("check: checkpoint, integrated gradients", error, CHECKPOINT_TOLERANCE)
