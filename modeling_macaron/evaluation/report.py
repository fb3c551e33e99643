"""Write the results of an evaluation, as JSON and as a Markdown table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from modeling_macaron.atomic import new_file

SCORES = ("pearson_score", "spearman_score")
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
_COLUMNS = [  # header, part, figure
    ("n", "all", "n"),
    ("Pearson r", "all", "pearson_r"),
    ("95 % interval", "all", "pearson_r_interval"),
    ("Spearman rho", "all", "spearman_rho"),
    ("95 % interval", "all", "spearman_rho_interval"),
    ("n private", "private", "n"),
    ("r private", "private", "pearson_r"),
    ("rho private", "private", "spearman_rho"),
    ("within 90 %", "all", "coverage_90"),
]
_FORMATS = {"n": ",", "coverage_90": ".1%"}


def _categories(result: dict) -> dict[str, dict]:
    """Figures of each category in each part; the official scores, if any, are the last category."""
    parts = {}
    for part in ("all", "private"):
        figures = dict(result.get(part, {}))
        scores = [figures.pop(name, None) for name in SCORES]
        official = {"n": "", "pearson_r": scores[0], "spearman_rho": scores[1]}
        parts[part] = figures | ({"official score": official} if None not in scores else {})
    return parts


def _cell(value: float | list[float] | str | None, key: str) -> str:
    """Text of a figure; a dash for None and NaN."""
    if value == "":
        return ""
    numbers = np.array(value, dtype=float)
    if np.isnan(numbers).any():
        return "-"
    if numbers.size == 2:
        return f"{value[0]:.3f} to {value[1]:.3f}"
    return f"{value:{_FORMATS.get(key, '.4f')}}"


def format_table(result: dict) -> str:
    """Format a result of `evaluate_files` as a Markdown table with its notes.

    The line `official score` holds the Pearson Score and the Spearman Score. The last column is the share of
    measurements within the prediction intervals of 90 %, if the model has them.
    """
    blocks = {"model": _categories(result)}
    if "baseline" in result:
        blocks[result["baseline"]["name"]] = _categories(result["baseline"])
    columns = [
        column for column in _COLUMNS if any(column[2] in figures for figures in blocks["model"][column[1]].values())
    ]
    rows = [["category", "predictor", *(header for header, _, _ in columns)]]
    for category in dict.fromkeys(name for block in blocks.values() for name in block["all"]):
        for predictor, block in blocks.items():
            if category in block["all"]:
                cells = [_cell(block[part].get(category, {}).get(key), key) for _, part, key in columns]
                rows.append([category, predictor, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width if index < 2 else "-" * (width - 1) + ":" for index, width in enumerate(widths)])
    lines = [
        "| " + " | ".join(f"{cell:{'<' if index < 2 else '>'}{widths[index]}}" for index, cell in enumerate(row)) + " |"
        for row in rows
    ]
    note, other = (part.get("note") for part in (result, result.get("baseline", {})))
    notes = [f"note: {note}"] if note else []
    notes += [f"note on the baseline: {other}"] if other not in (None, note) else []
    return "\n".join(lines + (["", *notes] if notes else []))


def write_result(result: dict, path: str | Path) -> None:
    """Write a result as JSON, with NaN as null."""
    content = json.loads(json.dumps(result), parse_constant=lambda _: None)
    with new_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
