"""Score predictions on measured promoters: the nine categories of the DREAM challenge, a baseline, plots.

The formulas are those of the `evaluate` module `metrics/dream_promoter`, the only place where they are written down. It
is imported by its path: from the repository where the package runs from there, and from the copy that a wheel holds
as `modeling_macaron/metrics`, so that both give the same figures and neither needs a network or a cache.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa

from modeling_macaron.io.atomic import check_free, new_file
from modeling_macaron.io.streams import progress_bar
from modeling_macaron.io.tables import string_buffers

from .measurements import Measurements, load_measurements, read_predictions

SCORES = ("pearson_score", "spearman_score")
PUBLIC_COLUMN = "leaderboard_public"
TITLES = {
    "all": "All promoters",
    "high": "High expression",
    "low": "Low expression",
    "yeast": "Native yeast promoters",
    "random": "Random promoters",
    "challenging": "Challenging promoters",
    "SNVs": "Single-nucleotide variants",
    "motif_perturbation": "Motif perturbation",
    "motif_tiling": "Motif tiling",
}

_METRIC_FILE = Path("metrics", "dream_promoter", "dream_promoter.py")


@functools.cache
def load_metric() -> ModuleType:
    """Import the module `dream_promoter` by its path.

    Raises
    ------
    FileNotFoundError
        If neither the package nor the folder above it holds the file.
    """
    package = Path(__file__).resolve().parents[1]
    found = [folder / _METRIC_FILE for folder in (package, package.parent) if (folder / _METRIC_FILE).is_file()]
    if not found:
        raise FileNotFoundError(f"{_METRIC_FILE} is neither in {package} nor beside it: reinstall the package")
    spec = importlib.util.spec_from_file_location("dream_promoter", found[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metric_inputs(measurements: Measurements) -> dict:
    """Keyword arguments of the metric module's functions."""
    rows = measurements.rows
    return {
        "references": rows["activity"].to_numpy(np.float64),
        "subsets": {name: rows[name].to_numpy() for name in load_metric().SUBSETS if name in rows.columns},
        "pairs": measurements.pairs,
        "public": rows[PUBLIC_COLUMN].to_numpy() if PUBLIC_COLUMN in rows.columns else None,
    }


def _without_scores(result: dict, reason: str) -> dict:
    """Take the official scores out of a result and say why."""
    stripped = {name: dict(part) for name, part in result.items() if name != "note"}
    for part in stripped.values():
        for score in SCORES:
            part.pop(score, None)
    return stripped | {"note": " ".join([reason, *([result["note"]] if "note" in result else [])])}


def score(predictions: np.ndarray, measurements: Measurements) -> dict:
    """Score predictions (rows,) with the metric module `dream_promoter`.

    Returns
    -------
    dict
        As `dream_score` of the module gives it. Of one split of a table no official score is claimed, since it is not
        the challenge's test set.
    """
    result = load_metric().dream_score(predictions, **metric_inputs(measurements))
    if "note" in result and set(result["all"]) == {"all"}:
        result["note"] = "the table has no subsets or pairs of the challenge: no official score."
    if measurements.split is None:
        return result
    return _without_scores(
        result, f"no official score is claimed: split {measurements.split} is not the challenge's test set."
    )


def score_baseline(source: str | Path, measurements: Measurements) -> dict:
    """Train ridge regression on k-mer counts and score it on the same rows.

    Parameters
    ----------
    source : str or Path
        Training rows, see `modeling_macaron.analysis.baselines.read_training_rows`.
    measurements : Measurements
        Rows to be scored.

    Returns
    -------
    dict
        As `score`, and what was trained. No official score is claimed where training rows are among the scored ones.

    Raises
    ------
    ValueError
        If the source or the sequences of the table cannot be used.
    """
    from .baselines import KMER_SIZES, encode_constructs, fit_ridge, read_training_rows, shared_sequences

    ids, problems = encode_constructs(pa.array(measurements.rows["sequence"], pa.large_string()))
    _check_sequences(problems, measurements)
    training = read_training_rows(source)
    pipeline = fit_ridge(training.ids, training.values)
    result = score(pipeline.predict(ids), measurements)
    num_shared = shared_sequences(ids, training.ids)
    if num_shared:
        result = _without_scores(
            result, f"{num_shared} of the scored sequences are among the baseline's training rows: no honest figure."
        )
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


def _check_sequences(problems: Sequence[str], measurements: Measurements) -> None:
    """Raise if a sequence has a problem, (rows,) texts."""
    if bad := [row for row, problem in enumerate(problems) if problem]:
        reasons = ", ".join(f"row_id {measurements.rows['row_id'][row]}: {problems[row]}" for row in bad[:3])
        raise ValueError(f"{len(bad)} of {len(problems)} sequences of the table cannot be used ({reasons})")


def predict_rows(
    model: str | Path, measurements: Measurements, *, batch_size: int = 256, verbose: bool = False
) -> np.ndarray:
    """Predict every row with a model folder.

    Returns
    -------
    numpy.ndarray
        (rows, 3) or (rows, 1) float64 in assay units, see `predict_bounds`.
    """
    from modeling_macaron.loading import load_model

    from .encoding import explain_rows
    from .predict import predict_all

    loaded, tokenizer = load_model(str(model))
    sequences = pa.array(measurements.rows["sequence"], pa.large_string())
    strands = tokenizer.encode_strands(*string_buffers(sequences))
    _check_sequences(explain_rows(tokenizer, sequences, strands), measurements)
    with progress_bar("sequences", len(sequences), verbose=verbose) as progress:
        return predict_all(loaded, strands.ids, batch_size, progress)


def _add_coverage(result: dict, predicted: np.ndarray, bounds: np.ndarray, measurements: Measurements) -> None:
    """Put the share of measurements within `bounds` (rows, 2) into the figures of each category of rows."""
    inputs = metric_inputs(measurements) | {"pairs": None}
    measured = inputs["references"]
    if abs(measured.mean() - predicted.mean()) > measured.std() + predicted.std():
        note = "no coverage of intervals: the measurements are on another scale than the predictions."
        result["note"] = " ".join([*([result["note"]] if "note" in result else []), note])
        return
    low, high = (load_metric().split_categories(bound, **inputs) for bound in bounds.T)
    for name, (measured, lows, _) in low.items():
        is_covered = (lows <= measured) & (measured <= high[name].predicted)
        result["all"][name]["coverage_90"] = float(is_covered.mean())


def calibrate(model: str | Path, measurements: Measurements, *, batch_size: int = 256) -> dict[str, float]:
    """Write `interval_quantiles` of measured rows into the config.json of a model folder.

    The fields for `MacaronConfig.unlike_training` are written too, where it has none.

    Parameters
    ----------
    model : str or Path
        The folder.
    measurements : Measurements
        Rows that the model was not trained on. Their sequences can be used, see `predict_rows`.
    batch_size : int
        Sequences per forward pass.

    Returns
    -------
    dict of str to float
        See `conformal_quantiles`.

    Raises
    ------
    ValueError
        If there are too few rows for any interval.
    """
    from modeling_macaron.loading import load_model
    from modeling_macaron.training.metrics import conformal_quantiles, trimer_settings

    from .encoding import encode_sequences
    from .predict import predict_intervals

    loaded, tokenizer = load_model(str(model))
    loaded.config.interval_quantiles = {"90": 1.0}  # so that the half widths are the scales
    sequences = measurements.rows["sequence"].tolist()
    found = predict_intervals(loaded, sequences, tokenizer=tokenizer, batch_size=batch_size)
    errors = np.abs(measurements.rows["activity"].to_numpy(np.float64) - found.expression)
    quantiles = conformal_quantiles(errors / (found.high - found.expression))
    if quantiles is None:
        raise ValueError(f"{len(errors)} rows are too few for an interval")
    path, strands = Path(model) / "config.json", encode_sequences(tokenizer, sequences).ids
    fields = json.loads(path.read_text(encoding="utf-8")) | {"interval_quantiles": quantiles}
    if loaded.config.trimer_shares is None:
        fields |= trimer_settings(strands, strands)
    with new_file(path) as partial:
        partial.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return quantiles


def plot_categories(
    predictions: np.ndarray, measurements: Measurements, result: dict, folder: str | Path
) -> list[Path]:
    """Save a scatter plot `CATEGORY.png` for each category, over all its rows or pairs, public ones included.

    Parameters
    ----------
    predictions : numpy.ndarray
        (rows,) predicted expression.
    measurements : Measurements
        What they were scored on.
    result : dict
        What `score` gave.
    folder : str or Path
        Made where it is not there.

    Returns
    -------
    list of Path
        The files, in the order of the categories.
    """
    from modeling_macaron.plots import save_figure, scatter_with_density

    metric = load_metric()
    files = []
    for name, values in metric.split_categories(predictions, **metric_inputs(measurements)).items():
        is_pair = name in metric.PAIR_KINDS
        what = "difference" if is_pair else "expression"
        figure = scatter_with_density(
            values.measured,
            values.predicted,
            pearson_r=result["all"][name]["pearson_r"],
            spearman_rho=result["all"][name]["spearman_rho"],
            title=TITLES[name],
            xlabel=f"Measured {what}",
            ylabel=f"Predicted {what}",
            zero_lines=is_pair,
        )
        files.append(save_figure(figure, Path(folder) / f"{name}.png"))
    return files


def _number(value: float | None) -> str:
    """Write a figure with four decimals, a dash where there is none."""
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"


def _interval(bounds: list[float] | None) -> str:
    """Write an interval with three decimals, a dash where there is none."""
    return "-" if bounds is None or None in bounds or np.isnan(bounds).any() else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _has_intervals(result: dict) -> bool:
    return any("pearson_r_interval" in figures for key, figures in result["all"].items() if key not in SCORES)


def _has_coverage(result: dict) -> bool:
    return any("coverage_90" in figures for key, figures in result["all"].items() if key not in SCORES)


def _with_intervals(cells: list[str], figures: dict) -> list[str]:
    """Put the intervals of `figures` behind the r and rho of the part `all` (category, predictor, n, r, rho, ...)."""
    r, rho = (_interval(figures.get(f"{key}_interval")) for key in ("pearson_r", "spearman_rho"))
    return [*cells[:4], r, cells[4], rho, *cells[5:]]


def _lines(result: dict, name: str, intervals: bool, coverage: bool) -> dict[str, list[str]]:
    """Cells of each category of one predictor, both parts; the last line holds the official scores."""
    parts = [part for part in ("all", "private") if part in result]
    lines = {}
    for category in (key for key in result["all"] if key not in SCORES):
        cells = [category, name]
        for part in parts:
            figures = result[part].get(category)
            cells += ["-"] * 3 if figures is None else [
                f"{figures['n']:,}", _number(figures["pearson_r"]), _number(figures["spearman_rho"])
            ]  # fmt: skip
        lines[category] = cells
    if any(score in result[part] for part in parts for score in SCORES):
        scores = [["", *(_number(result[part].get(score)) for score in SCORES)] for part in parts]
        lines["official score"] = ["official score", name, *(cell for cells in scores for cell in cells)]
    if intervals:
        lines = {key: _with_intervals(cells, result["all"].get(key, {})) for key, cells in lines.items()}
    if coverage:
        for key, cells in lines.items():
            covered = result["all"].get(key, {}).get("coverage_90")
            cells.append("-" if covered is None else f"{covered:.1%}")
    return lines


def format_table(result: dict) -> str:
    """Write a result of `score` (with `baseline`, where there is one) as a Markdown table and its notes.

    The line `official score` holds the Pearson Score and the Spearman Score. Where the result holds intervals, a column
    `95 % interval` follows r and rho. Where it holds coverages, the last column is the share of measurements within the
    model's prediction intervals of 90 %.
    """
    intervals, coverage = _has_intervals(result), _has_coverage(result)
    blocks = [_lines(result, "model", intervals, coverage)]
    if "baseline" in result:
        blocks.append(_lines(result["baseline"], result["baseline"]["name"], intervals, coverage))
    header = ["category", "predictor", "n", "Pearson r", "Spearman rho"]
    if intervals:
        header = [*header[:4], "95 % interval", header[4], "95 % interval"]
    if "private" in result:
        header += ["n private", "r private", "rho private"]
    if coverage:
        header.append("within 90 %")
    keys = dict.fromkeys(key for block in blocks for key in block)
    rows = [header, *(block[key] for key in keys for block in blocks if key in block)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    aligned = [
        [cell.ljust(width) if column < 2 else cell.rjust(width)
         for column, (cell, width) in enumerate(zip(row, widths, strict=True))] for row in rows
    ]  # fmt: skip
    rule = ["-" * width if column < 2 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    lines = [f"| {' | '.join(cells)} |" for cells in [aligned[0], rule, *aligned[1:]]]
    notes = [f"note: {result['note']}"] if "note" in result else []
    if result.get("baseline", {}).get("note") not in (None, result.get("note")):
        notes.append(f"note on the baseline: {result['baseline']['note']}")
    return "\n".join(lines + (["", *notes] if notes else []))


def _without_nan(value):
    """Replace NaN, which JSON does not know, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def write_result(result: dict, path: str | Path) -> None:
    """Write a result as JSON, NaN as null; nothing half is left."""
    with new_file(path) as partial:
        partial.write_text(json.dumps(_without_nan(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _about_intervals(measurements: Measurements, num_resamples: int, cluster_column: str) -> dict:
    """Check the clusters, before a model takes its time, and note how the intervals are made."""
    from .intervals import cluster_codes

    num_clusters = int(cluster_codes(measurements, cluster_column).max()) + 1
    return {"intervals": num_resamples, "cluster_column": cluster_column, "clusters": num_clusters, "seed": 0}


def _add_intervals(result: dict, predicted: np.ndarray, measurements: Measurements, run: dict) -> None:
    """Put the intervals of each category behind its figures in the part `all`."""
    from .intervals import bootstrap_intervals

    found = bootstrap_intervals(
        predicted, measurements,
        cluster_column=run["cluster_column"], num_resamples=run["intervals"], seed=run["seed"],
    )  # fmt: skip
    for name, figures in found.items():
        result["all"][name] |= figures


def _check_outputs(output: str | Path, plots: str | Path | None, overwrite: bool, inputs: Sequence[object]) -> None:
    """Reject outputs that exist or are inputs, before any work."""
    check_free(output, overwrite, inputs)
    if plots is not None and Path(plots).exists() and not Path(plots).is_dir():
        raise FileExistsError(f"{plots} is a file: name a folder for the plots")
    for name in TITLES if plots is not None else ():
        check_free(Path(plots) / f"{name}.png", overwrite, inputs)


def _check_numbers(batch_size: int, intervals: int | None) -> None:
    """Reject numbers that are out of range, before any work."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if intervals is not None and intervals < 2:
        raise ValueError(f"intervals must be at least 2 resamples, got {intervals}")


def evaluate_files(
    table: str | Path,
    output: str | Path,
    *,
    model: str | Path | None = None,
    predictions: str | Path | None = None,
    pairs: str | Path | None = None,
    split: str | None = None,
    sequence_column: str | None = None,
    value_column: str | None = None,
    baseline_train: str | Path | None = None,
    plots: str | Path | None = None,
    intervals: int | None = None,
    cluster_column: str = "cluster",
    calibrate_model: bool = False,
    batch_size: int = 256,
    overwrite: bool = False,
    verbose: bool = False,
) -> dict:
    """Score a model or a file of predictions on a measured table, and write the figures.

    Parameters
    ----------
    table, pairs, split, sequence_column, value_column
        See `load_measurements`.
    output : str or Path
        JSON file to be written.
    model, predictions : str or Path
        One of the two: a model folder or Hub name, or a table for `read_predictions`.
    baseline_train : str or Path, optional
        Training rows of the baseline; without them there is none.
    plots : str or Path, optional
        Folder for a scatter plot of each category.
    intervals : int, optional
        Resamples for 95 % confidence intervals of the part `all`, see `bootstrap_intervals`; without them there are
        none.
    cluster_column : str
        Column that names the cluster of each row; rows of one cluster are drawn together.
    calibrate_model : bool
        Write prediction intervals of these rows into the model folder, see `calibrate`.
    batch_size : int
        Sequences per forward pass of the model.
    overwrite : bool
        Replace an output, and plots, that exist.
    verbose : bool
        Show the model's progress.

    Returns
    -------
    dict
        What `output` holds: the result of `score`, `baseline` (see `score_baseline`), and `run`, the inputs. Where the
        model has prediction intervals, `coverage_90` of a category of the part `all` is the share of its measurements
        within those of 90 %, unless they are on another scale than the predictions.

    Raises
    ------
    ValueError, OSError
        On inputs that are missing or wrong, see the functions above.
    """
    if (model is None) == (predictions is None):
        raise ValueError("give either a model or a file of predictions")
    if calibrate_model and (model is None or not Path(model).is_dir()):
        raise ValueError("--calibrate writes into a model folder: pass --model FOLDER")
    _check_numbers(batch_size, intervals)
    _check_outputs(output, plots, overwrite, (table, model, predictions, pairs, baseline_train))
    measurements = load_measurements(
        table, pairs, split=split, sequence_column=sequence_column, value_column=value_column
    )
    run = {"table": table, "pairs": pairs, "split": split, "rows": len(measurements.rows)}
    if intervals is not None:
        run |= _about_intervals(measurements, intervals, cluster_column)
    if model is not None:
        predicted, *bounds = predict_rows(model, measurements, batch_size=batch_size, verbose=verbose).T
        run |= {"model": model}
        if calibrate_model:
            run["interval_quantiles"] = calibrate(model, measurements, batch_size=batch_size)
    else:
        bounds = ()
        predicted, num_extra = read_predictions(predictions, measurements.rows["row_id"])
        run |= {"predictions": predictions, "extra_predictions": num_extra}
    result = score(predicted, measurements)
    if len(bounds):
        _add_coverage(result, predicted, np.stack(bounds, axis=1), measurements)
    if intervals is not None:
        _add_intervals(result, predicted, measurements, run)
    if baseline_train is not None:
        result["baseline"] = score_baseline(baseline_train, measurements)
    result["run"] = {key: str(value) if isinstance(value, Path) else value for key, value in run.items()}
    if plots is not None:
        plot_categories(predicted, measurements, result, plots)
    write_result(result, output)
    return result
