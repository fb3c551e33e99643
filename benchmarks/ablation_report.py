"""Show the results of `benchmarks.ablation`: a table and a plot in docs/ablation.md.

    python -m benchmarks.ablation_report

The text between the two markers is replaced; a test keeps it equal to the committed results.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from benchmarks.ablation import RESULT, Variant, read_variants
from benchmarks.pages import replace_block
from modeling_macaron.analysis.plots import BLUE, GREY, VERMILLION, save_figure

PAGE = Path(__file__).parents[1] / "docs" / "ablation.md"
PLOT = RESULT.with_suffix(".png")
BLOCK = "ablation"


def values_of(result: dict, name: str, measure: str = "pearson_r") -> dict[int, float]:
    """Values of one variant by seed."""
    return {run["seed"]: run[measure] for run in result["runs"] if run["variant"] == name}


def difference(result: dict, name: str) -> tuple[float, float]:
    """Mean difference of Pearson's r from the base with the same seed, and its standard error.

    Parameters
    ----------
    result : dict
        What `benchmarks.ablation` wrote.
    name : str
        A variant.

    Returns
    -------
    tuple of float
        NaN as the error where there is one seed only.
    """
    base, own = values_of(result, "base"), values_of(result, name)
    differences = [own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())]
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return mean(differences), error


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _cells(result: dict, variant: Variant) -> list[str]:
    """Cells of a variant's line."""
    r, rho = (list(values_of(result, variant.name, measure).values()) for measure in ("pearson_r", "spearman_rho"))
    spread = f" ± {stdev(r):.4f}" if len(r) > 1 else ""
    change = ""
    if variant.name != "base":
        average, error = difference(result, variant.name)
        change = _signed(average) + ("" if math.isnan(error) else f" ± {error:.4f}")
    parameters = next(run["parameters"] for run in result["runs"] if run["variant"] == variant.name)
    return [variant.idea, variant.variant, str(len(r)), f"{mean(r):.4f}{spread}", change, f"{mean(rho):.4f}",
            f"{parameters:,}", variant.paper or "-"]  # fmt: skip


def render_figures(result: dict, variants: list[Variant]) -> str:
    """Render what stands between the markers of the page.

    Parameters
    ----------
    result : dict
        What `benchmarks.ablation` wrote.
    variants : list of Variant
        In the order of the table; those without results are left out.

    Returns
    -------
    str
    """
    header = [
        "idea",
        "instead",
        "seeds",
        "Pearson r",
        "change of r",
        "Spearman rho",
        "parameters",
        "the team's finding",
    ]
    shown = [variant for variant in variants if values_of(result, variant.name)]
    rows = [header, ["---", "---", *["---:"] * 5, "---"], *(_cells(result, variant) for variant in shown)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    note = (
        f"{len(result['runs'])} runs on {result['machine']['name']} ({result['date']}, "
        f"torch {result['machine']['versions']['torch']}, `{result['command']}`). Pearson r: mean and standard "
        "deviation over seeds. Change: mean difference from the base with the same seed, with its standard error. "
        "Both are given where there is more than one seed. The team's finding: official Pearson / Spearman Score on "
        "the challenge's full data."
    )
    plot = f"../{PLOT.relative_to(PAGE.parents[1]).as_posix()}"
    return f"{table}\n\n{note}\n\n![Change of validation r by idea]({plot})\n"


def plot(result: dict, variants: list[Variant]) -> Figure:
    """Draw the change of validation r of every variant, each seed a point.

    Parameters
    ----------
    result : dict
        What `benchmarks.ablation` wrote.
    variants : list of Variant
        In the order of the plot.

    Returns
    -------
    matplotlib.figure.Figure
    """
    base = values_of(result, "base")
    shown = [variant for variant in variants[1:] if values_of(result, variant.name).keys() & base.keys()]
    figure = Figure(figsize=(6.7, 0.7 + 0.27 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=0.8)
    spread = stdev(base.values()) if len(base) > 1 else 0
    axes.axvspan(-spread, spread, color=GREY, alpha=0.15, linewidth=0, label="spread of the base over seeds")
    for row, variant in enumerate(shown):
        own = values_of(result, variant.name)
        changes = [own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())]
        one, average = ("one seed", "mean") if row == 0 else (None, None)
        axes.plot(changes, [row] * len(changes), "o", color=BLUE, markersize=3, alpha=0.7, label=one)
        axes.plot(mean(changes), row, "|", color=VERMILLION, markersize=12, markeredgewidth=2, label=average)
    axes.set_yticks(range(len(shown)), [variant.variant.removesuffix(" (the plain encoder)") for variant in shown])
    axes.invert_yaxis()
    axes.set_xlabel("change of Pearson r on validation, against the base with the same seed", size=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=7, frameon=False, loc="outside lower center", ncols=3)
    return figure


def main(argv: list[str] | None = None) -> int:
    """Rewrite the block of the page, and the plot."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.ablation_report", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(argv)  # fmt: skip
    result, variants = json.loads(RESULT.read_text(encoding="utf-8")), read_variants()
    try:
        replace_block(PAGE, BLOCK, render_figures(result, variants))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    save_figure(plot(result, variants), PLOT)
    print(f"{PAGE.name} and {PLOT.name} show {len(result['runs'])} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
