"""Part of the GPU benchmark that compares what users do with the trained model on the device with the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu_checks import exact_float32
from benchmarks.gpu_setup import Run
from modeling_macaron.analysis.attribution import gradient_x_input, integrated_gradients
from modeling_macaron.analysis.design import design
from modeling_macaron.analysis.mutagenesis import saturation_mutagenesis
from modeling_macaron.analysis.mutants import BASES
from modeling_macaron.analysis.predict import load_model, predict
from modeling_macaron.analysis.variants import variant_effects

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "macaron-promoter-library"
TOLERANCE = 1e-4  # standard deviations of expression
_PROMOTERS = 5
_BATCH_SIZE = 64


def _predict(folder: Path, promoters: list[str], device: str) -> np.ndarray:
    return predict(folder, promoters, device=device, batch_size=_BATCH_SIZE)


def _variants(folder: Path, promoters: list[str], device: str) -> np.ndarray:
    alternatives = [BASES[(BASES.index(text[40]) + 1) % 4].join((text[:40], text[41:])) for text in promoters]
    effects = variant_effects(
        folder, promoters, alternatives, both_orientations=True, device=device, batch_size=_BATCH_SIZE
    )
    return effects.delta


def _mutagenesis(folder: Path, promoters: list[str], device: str) -> np.ndarray:
    results = saturation_mutagenesis(folder, promoters[:2], device=device, batch_size=_BATCH_SIZE)
    return np.stack([result.deltas for result in results])


def _integrated_gradients(folder: Path, promoters: list[str], device: str) -> np.ndarray:
    result = integrated_gradients(folder, promoters, steps=8, device=device, batch_size=_BATCH_SIZE)
    return np.stack(result.attributions)


def _gradient_x_input(folder: Path, promoters: list[str], device: str) -> np.ndarray:
    return np.stack(gradient_x_input(folder, promoters, device=device, batch_size=_BATCH_SIZE).attributions)


def _design(folder: Path, promoters: list[str], device: str) -> np.ndarray:
    found = design(folder, promoters[:2], max_edits=2, device=device, batch_size=_BATCH_SIZE)
    return np.array([own.expression for own in found])


VERBS: dict[str, Callable[[Path, list[str], str], np.ndarray]] = {
    "predict": _predict,
    "variant effects": _variants,
    "mutagenesis": _mutagenesis,
    "integrated gradients": _integrated_gradients,
    "gradient x input": _gradient_x_input,
    "design": _design,
}


def check_verbs(run: Run) -> None:
    """Check each verb with the checkpoint of this repository on the device against the CPU, in float32.

    Parameters
    ----------
    run : Run
        Gets the equalities, in standard deviations of expression, and is saved after each.
    """
    model, _ = load_model(CHECKPOINT, device="cpu")
    letters = np.random.default_rng(0).integers(0, len(BASES), (_PROMOTERS, model.config.strand_length))
    promoters = ["".join(BASES[letter] for letter in row) for row in letters]
    for name, verb in VERBS.items():
        with exact_float32():
            reference, values = (verb(CHECKPOINT, promoters, device) for device in ("cpu", str(run.device)))
        error = float(np.abs(values - reference).max()) / model.config.expression_std
        run.results.check(f"verbs: {name}, against the CPU", error, TOLERANCE)
        run.save()
    reference = _predict(CHECKPOINT, promoters, "cpu")
    for dtype in (torch.bfloat16, torch.float16):
        half = predict(CHECKPOINT, promoters, device=str(run.device), dtype=dtype)
        error = float(np.abs(half - reference).max()) / model.config.expression_std
        name = str(dtype).removeprefix("torch.")
        run.results.check(f"verbs: predict in {name}, against float32 on the CPU", error, 0.1)
