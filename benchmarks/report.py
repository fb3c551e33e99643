"""Show committed results: a table and a plot in README.md.

    python -m benchmarks.report

The text between the two markers is replaced; a test keeps it equal to the files in `results/`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.figures import RESULTS, show
from benchmarks.pages import replace_block
from modeling_macaron.analysis.plots import save_figure

README = Path(__file__).parents[1] / "README.md"
PLOT = RESULTS / "inference_and_preparation.png"
BLOCK = "benchmarks"
_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#6E6E6E"  # Okabe and Ito's palette, told apart by everyone


def read_results(folder: Path = RESULTS) -> list[dict]:
    """Results of all machines, GPUs first.

    Parameters
    ----------
    folder : Path
        Folder of JSON files that the benchmarks wrote.

    Returns
    -------
    list of dict
        The reports.
    """
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    reports = [report for report in reports if report["machine"].get("size", "paper") == "paper"]  # no trials
    return sorted(reports, key=lambda report: report["kind"] != "gpu")


def render_table(reports: list[dict]) -> str:
    """Lay out the figures that have a bar, machine by machine, as Markdown.

    Parameters
    ----------
    reports : list of dict
        See `read_results`.

    Returns
    -------
    str
        Tables, ending with a newline.
    """
    parts = []
    for report in reports:
        held = sum(check["holds"] for check in report["checks"])
        rows = [
            f"| {figure['name'].strip()} | {show(figure['value'])} {figure['unit']} | "
            f"{'at most' if figure['lower_is_better'] else 'at least'} {show(figure['bar'])} |"
            for figure in report["figures"]
            if figure["bar"] is not None
        ]
        parts.append(
            f"**{report['machine']['name']}** ({report['date']}, torch {report['machine']['versions']['torch']}, "
            f"`{report['command']}`); {held} of {len(report['checks'])} equalities hold:\n\n"
            "| what | measured | bar |\n| --- | ---: | ---: |\n" + "\n".join(rows) + "\n"
        )
    return "\n".join(parts)


def render_figures(reports: list[dict]) -> str:
    """Render what stands between the markers of the README."""
    plot = PLOT.relative_to(README.parent).as_posix()
    alt = "Speed of inference by form of the model, and time of preparation by rows"
    return f"{render_table(reports)}\n![{alt}]({plot})\n"


def plot(report: dict):
    """Draw the speed of inference by form, and the time of preparation by rows.

    Parameters
    ----------
    report : dict
        Results of a run on a CPU.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    inference, preparation = figure.subplots(1, 2, width_ratios=(1.25, 1))
    rows = [row for row in report["tables"]["inference"] if row["attention"] == "sdpa"]
    forms = list(dict.fromkeys(row["form"] for row in rows))
    for offset, weights, colour in ((-0.2, "float32", _BLUE), (0.2, "bfloat16", _ORANGE)):
        speeds = [row["sequences_per_second"] for row in rows if row["weights"] == weights]
        bars = inference.barh(
            [index + offset for index in range(len(forms))], speeds, 0.38, color=colour, label=weights
        )
        inference.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    inference.set_yticks(range(len(forms)), forms)
    inference.invert_yaxis()
    inference.margins(x=0.12)
    inference.set_xlabel("sequences/s (batch 64, paper's size)")
    inference.legend(frameon=False, fontsize=8)

    for table, marker, colour in (("TSV", "o-", _BLUE), ("TSV.gz", "s", _ORANGE)):
        points = [row for row in report["tables"]["preparation"] if row["table"] == table]
        preparation.plot([p["rows"] for p in points], [p["seconds"] for p in points], marker, color=colour, label=table)
    ends = [report["tables"]["preparation"][0]["rows"], report["tables"]["preparation"][-1]["rows"]]
    preparation.plot(ends, [rows / 300_000 for rows in ends], "--", color=_GREY, label="300,000 rows/s")
    preparation.set(xscale="log", yscale="log", xlabel="rows of the table", ylabel="seconds to prepare, start included")
    preparation.legend(frameon=False, fontsize=8)
    for axes in (inference, preparation):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(report["machine"]["name"], fontsize=10)
    return figure


def main(argv: list[str] | None = None) -> int:
    """Rewrite the block in README.md and the plot."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    reports = read_results()
    try:
        replace_block(README, BLOCK, render_figures(reports))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    save_figure(plot(next(report for report in reports if report["kind"] == "cpu")), PLOT)
    print(f"{README.name} and {PLOT.name} show the results of {len(reports)} machines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
