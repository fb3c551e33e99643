"""Metrics of a validation set."""

from __future__ import annotations

import numpy as np
from scipy import stats
from transformers import EvalPrediction

from modeling_macaron.configuration_macaron import count_trimers, trimer_chi_square

COVERAGES = (50, 80, 90, 95)  # of prediction intervals, in percent


def correlation(predicted: np.ndarray, measured: np.ndarray, method: str = "pearson") -> float:
    """Pearson or Spearman correlation of predictions and measurements (rows,), or 0.0 if either is constant."""
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return 0.0
    correlate = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[method]
    return float(correlate(predicted, measured).statistic)


def conformal_quantiles(scores: np.ndarray) -> dict[str, float] | None:
    """Split conformal quantiles of held-out scores (rows,) by coverage in percent, or None for too few rows."""
    ranks = {coverage: -(-coverage * (len(scores) + 1) // 100) for coverage in COVERAGES}
    ordered = np.sort(scores)
    return {str(coverage): float(ordered[rank - 1]) for coverage, rank in ranks.items() if rank <= len(scores)} or None


def trimer_settings(trained: np.ndarray, held_out: np.ndarray) -> dict:
    """Config fields for `MacaronConfig.unlike_training` from forward strands (rows, length)."""
    counts = count_trimers(trained).sum(axis=0) + 1
    shares = counts / counts.sum()
    limit = np.percentile(trimer_chi_square(held_out, shares), 99.5)
    return {"trimer_shares": tuple(float(f"{share:.5g}") for share in shares), "trimer_limit": float(f"{limit:.5g}")}


def compute_metrics(prediction: EvalPrediction, reconstruction_weight: float = 1.0) -> dict[str, float]:
    """Compute losses and correlations from the arrays (rows,) of `MacaronTrainer.prediction_step`."""
    parts = {name: np.asarray(values, dtype=np.float64) for name, values in prediction.predictions.items()}
    predicted, measured = parts["expression"], np.asarray(prediction.label_ids, dtype=np.float64)
    loss = expression_loss = float(np.mean(parts["loss"]))
    reconstruction = {}
    if "entropy" in parts:
        reconstruction["reconstruction_loss"] = float(parts["entropy"].sum() / (parts["masked"].sum() + 1))
        loss += reconstruction_weight * reconstruction["reconstruction_loss"]
    return {
        "loss": loss,
        "expression_loss": expression_loss,
        **reconstruction,
        "pearson_r": correlation(predicted, measured),
        "spearman_rho": correlation(predicted, measured, "spearman"),
    }
