"""Render committed results as a table and a plot in README.md.

    python -m benchmarks.report

Replaces the text between two markers. A test checks that it matches the files in `results/`.
"""

from __future__ import annotations

import json
import sys

from matplotlib.figure import Figure

from benchmarks.figures import RESULTS, ROOT, make_parser, show
from benchmarks.pages import replace_block, table
from modeling_macaron.plots import BLUE, save_figure

README = ROOT / "README.md"
PLOT = RESULTS / "inference_and_preparation.png"
BLOCK = "benchmarks"
_ORANGE = "#E69F00"  # of the same palette as BLUE


def read_results() -> list[dict]:
    """Results of all machines, GPUs first."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    return sorted(reports, key=lambda report: report["kind"] != "gpu")


def render_figures(reports: list[dict]) -> str:
    """Render the block of the README: the figures marked as shown for each machine, then the plot."""
    parts = []
    for report in reports:
        held = sum(check["holds"] for check in report["checks"])
        rows = [[own["name"], f"{show(own['value'])} {own['unit']}"] for own in report["figures"] if own["shown"]]
        parts.append(
            f"**{report['machine']['name']}** ({report['date']}, torch {report['machine']['versions']['torch']}, "
            f"`{report['command']}`); {held} of {len(report['checks'])} equalities hold:\n\n"
            + table([["figure", "measured"], *rows], ["---", "---:"])
        )
    alt = "Speed of inference by form of the model, and time of preparation by rows"
    return "\n".join(parts) + f"\n![{alt}]({PLOT.relative_to(ROOT).as_posix()})\n"


def plot(report: dict) -> Figure:
    """Draw the speed of inference by form and the time of preparation by rows on a CPU."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    inference, preparation = figure.subplots(1, 2, width_ratios=(1.25, 1))
    rows = [row for row in report["tables"]["inference"] if row["attention"] == "sdpa"]
    forms = list(dict.fromkeys(row["form"] for row in rows))
    for offset, weights, colour in ((-0.2, "float32", BLUE), (0.2, "bfloat16", _ORANGE)):
        speeds = [row["sequences_per_second"] for row in rows if row["weights"] == weights]
        places = [index + offset for index in range(len(forms))]
        bars = inference.barh(places, speeds, 0.38, color=colour, label=weights)
        inference.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    inference.set_yticks(range(len(forms)), forms)
    inference.invert_yaxis()
    inference.margins(x=0.12)
    inference.set_xlabel("sequences/s (batch 64, paper's size)")
    for name, marker, colour in (("TSV", "o-", BLUE), ("TSV.gz", "s", _ORANGE)):
        points = [row for row in report["tables"]["preparation"] if row["table"] == name]
        preparation.plot([p["rows"] for p in points], [p["seconds"] for p in points], marker, color=colour, label=name)
    preparation.set(xscale="log", ylim=(0, None), xlabel="rows of the table", ylabel="seconds to prepare, with start")
    for axes in (inference, preparation):
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(report["machine"]["name"], fontsize=10)
    return figure


def main(argv: list[str] | None = None) -> int:
    """Rewrite the block in README.md and the plot."""
    make_parser("report", __doc__).parse_args(argv)
    reports = read_results()
    replace_block(README, BLOCK, render_figures(reports))
    save_figure(plot(next(report for report in reports if report["kind"] == "cpu")), PLOT)
    print(f"{README.name} and {PLOT.name} show the results of {len(reports)} machines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
