"""Measures of a whole validation set."""

from __future__ import annotations

import numpy as np
from scipy import stats
from transformers import EvalPrediction


def correlation(predicted: np.ndarray, measured: np.ndarray, method: str = "pearson") -> float:
    """Correlate predictions with measurements; 0.0 where it is undefined because either is constant.

    Parameters
    ----------
    predicted, measured : numpy.ndarray
        (rows,) values.
    method : str
        `"pearson"` or `"spearman"`.

    Returns
    -------
    float
    """
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return 0.0
    correlate = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[method]
    return float(correlate(predicted, measured).statistic)


def compute_metrics(prediction: EvalPrediction, reconstruction_weight: float = 1.0) -> dict[str, float]:
    """Measure what `MacaronTrainer` gathered of a whole split.

    Parameters
    ----------
    prediction : EvalPrediction
        `predictions` holds arrays (rows,): `expression`, standardized; `loss` of the expression; and, where letters are
        reconstructed, `entropy`, the summed cross-entropy (nats) of the row's masked letters, and `masked`, their
        number. `label_ids` (rows,) are the standardized measurements.
    reconstruction_weight : float
        Weight of the reconstruction in the loss.

    Returns
    -------
    dict[str, float]
        `loss`, `expression_loss` (mean squared error or, with bins, Kullback-Leibler divergence), `pearson_r`,
        `spearman_rho` and, where letters are reconstructed, `reconstruction_loss`.
    """
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
