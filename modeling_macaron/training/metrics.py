"""Measures of a whole validation set."""

from __future__ import annotations

import numpy as np
from scipy import stats
from transformers import EvalPrediction

from modeling_macaron.configuration_macaron import count_trimers, trimer_chi_square

COVERAGES = (50, 80, 90, 95)  # of prediction intervals, in percent


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


def conformal_quantiles(scores: np.ndarray) -> dict[str, float] | None:
    """Half widths of intervals that hold a new measurement with a given probability (split conformal prediction).

    Parameters
    ----------
    scores : numpy.ndarray
        (rows,) absolute errors on rows that were not trained on, each divided by the scale of its prediction.

    Returns
    -------
    dict of str to float, or None
        For each coverage in percent, the score of rank ceil(coverage * (rows + 1)). Coverages that need more rows are
        left out.
    """
    ranks = {coverage: -(-coverage * (len(scores) + 1) // 100) for coverage in COVERAGES}
    ordered = np.sort(scores)
    return {str(coverage): float(ordered[rank - 1]) for coverage, rank in ranks.items() if rank <= len(scores)} or None


def trimer_settings(trained: np.ndarray, held_out: np.ndarray) -> dict:
    """Fields of the config by which `MacaronConfig.unlike_training` knows the training rows.

    Parameters
    ----------
    trained, held_out : numpy.ndarray
        (rows, length) letter ids of forward strands. The limit is what 99.5 % of the held-out rows do not exceed.

    Returns
    -------
    dict
        `trimer_shares` and `trimer_limit`.
    """
    counts = count_trimers(trained).sum(axis=0) + 1
    shares = counts / counts.sum()
    limit = np.percentile(trimer_chi_square(held_out, shares), 99.5)
    return {"trimer_shares": tuple(float(f"{share:.5g}") for share in shares), "trimer_limit": float(f"{limit:.5g}")}


def compute_metrics(prediction: EvalPrediction, reconstruction_weight: float = 1.0) -> dict[str, float]:
    """Measure what `MacaronTrainer` gathered of a whole split.

    Parameters
    ----------
    prediction : EvalPrediction
        `predictions` holds arrays (rows,): `expression`, standardized; `loss` of the expression; with bins, its
        `variance`; and, where letters are reconstructed, `entropy`, the summed cross-entropy (nats) of the row's masked
        letters, and `masked`, their number. `label_ids` (rows,) are the standardized measurements.
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
