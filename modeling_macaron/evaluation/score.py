"""Score predictions on measured promoters: the nine categories of the DREAM challenge, and a baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from modeling_macaron.atomic import check_free, new_file
from modeling_macaron.dna import explain_rows, string_buffers
from modeling_macaron.io.streams import progress_bar
from modeling_macaron.predictor import Predictor
from modeling_macaron.training.metrics import conformal_quantiles, trimer_settings

from .bootstrap import bootstrap_intervals, cluster_codes
from .dream_promoter.dream_promoter import PAIR_KINDS, dream_score, split_categories
from .measurements import Measurements, load_measurements, metric_inputs, read_predictions
from .report import SCORES, TITLES, write_result


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of `evaluate_files`."""

    sequence_column: str | None = None
    value_column: str | None = None
    baseline_train: str | Path | None = None  # training rows of a baseline, see `read_training_rows`
    plots: str | Path | None = None  # folder for a scatter plot of each category
    intervals: int | None = None  # resamples for 95 % confidence intervals, see `bootstrap_intervals`
    cluster_column: str = "cluster"  # for `intervals`
    calibrate: bool = False  # write prediction intervals of these rows into the model folder, see `calibrate`
    batch_size: int = 256
    overwrite: bool = False  # replace an existing output, and plots
    verbose: bool = False  # show the model's progress

    def __post_init__(self):
        if self.intervals is not None and self.intervals < 2:
            raise ValueError(f"intervals must be at least 2 resamples, got {self.intervals}")


def _add_note(result: dict, note: str) -> None:
    result["note"] = f"{result['note']} {note}" if "note" in result else note


def _remove_scores(result: dict, reason: str) -> None:
    """Remove the official scores from a result, and note why."""
    for part in ("all", "private"):
        for name in SCORES:
            result.get(part, {}).pop(name, None)
    _add_note(result, reason)


def score(predictions: np.ndarray, measurements: Measurements) -> dict:
    """Score predictions (rows,) by `dream_score`. A split of a table has no official scores."""
    result = dream_score(predictions, **metric_inputs(measurements))
    if set(result["all"]) == {"all"}:
        result["note"] = "no official score: the table has no subsets or pairs of the challenge."
    if measurements.split is not None:
        _remove_scores(result, f"no official score: split {measurements.split} is not the challenge's test set.")
    return result


def _check_sequences(problems: Sequence[str], measurements: Measurements) -> None:
    """Raise if one of `problems` (rows,) is not empty."""
    if bad := [row for row, problem in enumerate(problems) if problem]:
        reasons = ", ".join(f"row_id {measurements.rows['row_id'][row]}: {problems[row]}" for row in bad[:3])
        raise ValueError(f"{len(bad)} of {len(problems)} sequences of the table cannot be used ({reasons})")


def score_baseline(source: str | Path, measurements: Measurements) -> dict:
    """Train ridge regression on k-mer counts of `source` (see `read_training_rows`), and score it.

    Returns the result of `score`, and facts about the training. It has no official score if training rows are among the
    scored ones. Raises a `ValueError` if the source or sequences of the table cannot be used.
    """
    from .ridge import KMER_SIZES, encode_constructs, fit_ridge, read_training_rows, shared_sequences

    ids, problems = encode_constructs(pa.array(measurements.rows["sequence"], pa.large_string()))
    _check_sequences(problems, measurements)
    training = read_training_rows(source)
    pipeline = fit_ridge(training.ids, training.values)
    result = score(pipeline.predict(ids), measurements)
    if num_shared := shared_sequences(ids, training.ids):
        _remove_scores(result, f"{num_shared} of the scored sequences are among the baseline's training rows.")
    about = {
        "name": "ridge",
        "method": "ridge regression on k-mer counts of both strands",
        "kmer_sizes": list(KMER_SIZES),
        "alpha": pipeline[-1].alpha,
        "trained_on": str(source),
        "training_rows": len(training.values),
        "training_rows_available": training.available,
        "scored_rows_in_training": num_shared,
    }
    return about | result


def _predict(predictor: Predictor, measurements: Measurements, verbose: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (rows, 3) or (rows, 1), see `Predictor.predict_batches`, and the strands (rows, strand_length)."""
    sequences = pa.array(measurements.rows["sequence"], pa.large_string())
    strands = predictor.tokenizer.encode_strands(*string_buffers(sequences))
    _check_sequences(explain_rows(predictor.tokenizer, sequences, strands), measurements)
    with progress_bar("sequences", len(sequences), verbose=verbose) as progress:
        return predictor.predict_strands(strands.ids, progress=progress), strands.ids


def calibrate(model: str | Path, measurements: Measurements, *, batch_size: int = 256) -> dict[str, float]:
    """Write `interval_quantiles` into the config.json of a model folder, from rows that it was not trained on.

    If the config has no fields for `MacaronConfig.unlike_training`, they are written too. Returns the quantiles, see
    `conformal_quantiles`. Raises a `ValueError` if there are too few rows.
    """
    predictor = Predictor.from_pretrained(model, batch_size=batch_size)
    predictor.config.interval_quantiles = {"90": 1.0}  # makes half widths equal to scales
    values, strands = _predict(predictor, measurements)
    predicted, _, high = values.T
    errors = np.abs(measurements.rows["activity"].to_numpy(np.float64) - predicted)
    quantiles = conformal_quantiles(errors / (high - predicted))
    if quantiles is None:
        raise ValueError(f"{len(errors)} rows are too few for an interval")
    path = Path(model) / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) | {"interval_quantiles": quantiles}
    if predictor.config.trimer_shares is None:
        fields |= trimer_settings(strands, strands)
    with new_file(path) as partial:
        partial.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return quantiles


def _add_coverage(result: dict, values: np.ndarray, measurements: Measurements) -> None:
    """Add the share of measurements within the bounds of `values` (rows, 3) to each category of rows."""
    predicted, low, high = values.T
    categories = split_categories(predicted, **metric_inputs(measurements))
    measured = categories["all"].measured
    if abs(measured.mean() - predicted.mean()) > measured.std() + predicted.std():
        _add_note(result, "no coverage of intervals: the measurements are on another scale than the predictions.")
        return
    for name, (measured, _, rows, _) in categories.items():
        if name not in PAIR_KINDS:
            is_covered = (low[rows] <= measured) & (measured <= high[rows])
            result["all"][name]["coverage_90"] = float(is_covered.mean())


def _check_request(output: str | Path, inputs: Sequence[object], options: EvaluationOptions) -> None:
    """Raise if outputs exist or are inputs."""
    if options.plots is not None and Path(options.plots).is_file():
        raise FileExistsError(f"{options.plots} is a file: name a folder for the plots")
    for path in (output, *(Path(options.plots, f"{name}.png") for name in TITLES if options.plots is not None)):
        check_free(path, options.overwrite, inputs)


def _obtain_values(
    model: str | Path | None, predictions: str | Path | None, measurements: Measurements, options: EvaluationOptions
) -> tuple[np.ndarray, dict]:
    """Predictions (rows, 1), or (rows, 3) with the bounds of intervals, and where they are from."""
    if predictions is not None:
        values, num_extra = read_predictions(predictions, measurements.rows["row_id"])
        return values[:, None], {"predictions": str(predictions), "extra_predictions": num_extra}
    predictor = Predictor.from_pretrained(model, batch_size=options.batch_size)
    values, _ = _predict(predictor, measurements, options.verbose)
    origin = {"model": str(model)}
    if options.calibrate:
        origin["interval_quantiles"] = calibrate(model, measurements, batch_size=options.batch_size)
    return values, origin


def evaluate_files(
    table: str | Path,
    output: str | Path,
    *,
    model: str | Path | None = None,
    predictions: str | Path | None = None,
    pairs: str | Path | None = None,
    split: str | None = None,
    options: EvaluationOptions | None = None,
) -> dict:
    """Score a model or a file of predictions on a measured table, and write the figures.

    Parameters
    ----------
    table, pairs, split
        See `load_measurements`.
    output : str or Path
        JSON file to write.
    model, predictions : str or Path
        Exactly one: a model folder or name on the Hub, or a table for `read_predictions`.
    options : EvaluationOptions, optional
        Baseline, intervals, plots and so on.

    Returns
    -------
    dict
        Content of `output`: the result of `score`, `baseline` (see `score_baseline`), and `run`, the inputs. If the
        model has prediction intervals, `coverage_90` of a category in the part `all` is the share of its measurements
        within those of 90 %.

    Raises
    ------
    ValueError, OSError
        If inputs are missing or invalid, or outputs exist.
    """
    options = options or EvaluationOptions()
    if (model is None) == (predictions is None):
        raise ValueError("give either a model or a file of predictions")
    if options.calibrate and (model is None or not Path(model).is_dir()):
        raise ValueError("--calibrate writes into a model folder: pass --model FOLDER")
    _check_request(output, (table, model, predictions, pairs, options.baseline_train), options)
    columns = {"sequence_column": options.sequence_column, "value_column": options.value_column}
    measurements = load_measurements(table, pairs, split=split, **columns)
    run = {"table": str(table), "pairs": pairs and str(pairs), "split": split, "rows": len(measurements.rows)}
    bootstrap = {"cluster_column": options.cluster_column, "seed": 0}
    if options.intervals is not None:  # before the model runs
        num_clusters = int(cluster_codes(measurements, options.cluster_column).max()) + 1
        run |= {"intervals": options.intervals, "clusters": num_clusters} | bootstrap
    values, origin = _obtain_values(model, predictions, measurements, options)
    predicted = values[:, 0]
    result = score(predicted, measurements)
    if values.shape[1] == 3:
        _add_coverage(result, values, measurements)
    if options.intervals is not None:
        found = bootstrap_intervals(predicted, measurements, num_resamples=options.intervals, **bootstrap)
        for name, figures in found.items():
            result["all"][name] |= figures
    if options.baseline_train is not None:
        result["baseline"] = score_baseline(options.baseline_train, measurements)
    result["run"] = run | origin
    if options.plots is not None:
        from .plots import plot_categories

        plot_categories(predicted, measurements, result, options.plots)
    write_result(result, output)
    return result
