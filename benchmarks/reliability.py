"""Render `docs/reliability.md` from what was measured.

    python -m benchmarks.reliability

reads `results/reliability/*.json`, `results/memory/*.json` and what was measured on a GPU, and replaces the page's
blocks.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.figures import RESULTS
from benchmarks.pages import replace_block, table
from benchmarks.peak_memory import ROOT
from benchmarks.scaling import render_scaling

FOLDER = RESULTS / "reliability"
PAGE = ROOT / "docs" / "reliability.md"


def read(name: str) -> dict:
    """Read results.

    Parameters
    ----------
    name : str
        Of a JSON file in `results/reliability/`.

    Returns
    -------
    dict
        See `figures.Results`.
    """
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def source(report: dict, command: str) -> str:
    """Say where figures come from.

    Parameters
    ----------
    report : dict
        See `read`.
    command : str
        By which they are measured anew.

    Returns
    -------
    str
        A blank line, and one that tells how many checks hold.
    """
    held = sum(check["error"] <= check["tolerance"] for check in report["checks"])
    return (
        f"\n`{command}`, {report['date']}, {report['machine']['name']}: {held} of {len(report['checks'])} "
        "checks hold.\n"
    )


def _same_bytes(row: dict) -> str:
    """Say whether outputs were equal; results of earlier versions do not tell."""
    return "the same bytes" if row["same_bytes"] else "OTHER BYTES"


def _where_training_was_killed(row: dict) -> str:
    return (
        f"{row['in_a_checkpoint']} in a checkpoint's writing ({row['in_a_half_one']} of them where a half one stood), "
        f"{row['in_the_result']} in the result's, {row['before_any']} before the run's first checkpoint"
    )


def _where_killed(row: dict) -> str:
    joining = f", {row['in_the_joining']} of them in the joining of parts" if "in_the_joining" in row else ""
    return f"{row['at_work']} after work began{joining}"


def render_faults() -> str:
    """Tabulate kills and full disks.

    Returns
    -------
    str
        Markdown.
    """
    report = read("faults")
    tables = report["tables"]
    rows = [[f"training, {row['processes']} process{'es' if row['processes'] > 1 else ''}", row["kills"],
             f"weights differ by {row['difference']:g}", _where_training_was_killed(row)]
            for row in tables.get("training", [])]  # fmt: skip
    for name in ("prediction", "preparation"):
        rows += [
            [name, row["kills"], f"{_same_bytes(row)}; {row['half_outputs']} half outputs", _where_killed(row)]
            for row in tables.get(name, [])
        ]
    full_disks = [
        [row["program"], row["exit_code"], row["told"].removeprefix("error: ")] for row in tables.get("disk_full", [])
    ]
    full = "Full disks were left out.\n"
    if full_disks:
        full = table(["on a full disk", "exit code", "what it tells"], full_disks)
    return (
        table(["program", "SIGKILLs", "what came out in the end", "where the kills fell"], rows) + "\n" + full
        + source(report, "python -m benchmarks.faults")
    )  # fmt: skip


def render_bad_input() -> str:
    """Tabulate what people get wrong, and what they see.

    Returns
    -------
    str
        Markdown.
    """
    report = read("bad_input")
    rows = [[row["what"], f"`{row['command'].strip()}`", row["told"]] for row in report["tables"]["bad_input"]]
    return table(["what is wrong", "command", "what it tells"], rows) + source(report, "python -m benchmarks.bad_input")


def render_fuzz() -> str:
    """Tabulate mutated input.

    Returns
    -------
    str
        Markdown.
    """
    report = read("fuzz")
    rows = [
        [
            row["target"],
            f"{row['inputs']:,}",
            row["seconds"],
            row["branches"],
            "none" if not row["exit_code"] else "yes",
        ]
        for row in report["tables"]["fuzz"]
    ]
    names = ["target", "inputs", "seconds", "branches reached", "input that was too much for it"]
    return table(names, rows) + source(report, "python -m benchmarks.fuzz")


def render_numerics() -> str:
    """Tabulate number formats and ways of training.

    Returns
    -------
    str
        Markdown.
    """
    report = read("numerics")
    formats = [
        [row["format"], f"{row['largest_error_sd']:.1e}", f"{row['rms_error_sd']:.1e}", f"{row['pearson_r']:.4f}",
         f"{row['change_of_r']:+.1e}"]
        for row in report["tables"]["formats"]
    ]  # fmt: skip
    ways = [
        [row["way"], f"{row['largest_relative_loss_error']:.1e}", f"{row['weight_difference']:.1e}"]
        for row in report["tables"]["trainings"]
    ]
    rows = report["tables"]["formats"][0]["rows"]
    return (
        f"Predictions of {rows:,} promoters kept out of training, against float64 (errors in standard deviations of "
        "expression):\n\n"
        + table(["format", "largest error", "root mean square", "Pearson r", "change of r"], formats)
        + "\nForty steps of training from one seed, against one process:\n\n"
        + table(["way", "largest relative difference of a loss", "largest difference of a weight"], ways)
        + source(report, "python -m benchmarks.numerics --table measured_library.parquet")
    )


def render_versions() -> str:
    """Tabulate the ends of the ranges of versions, and what was not tested there.

    Returns
    -------
    str
        Markdown.
    """
    report = read("matrix")
    packages = ["torch", "transformers", "datasets", "accelerate", "huggingface-hub", "numpy", "pyarrow", "pandas"]
    rows = [
        [row["python"], row["end"], row["passed"], row["failed"], row["skipped"],
         row["date"], *(row[name] for name in packages)]
        for row in report["tables"]["matrix"]
    ]  # fmt: skip
    left_out = [[f"`{row['tests']}`", row["reason"]] for row in report["tables"]["left_out"]]
    return (
        table(["Python", "versions", "passed", "failed", "skipped", "date", *packages], rows)
        + "\n" + table(["left out", "why"], left_out)
        + source(report, "make test-matrix")
    )  # fmt: skip


def render_memory() -> str:
    """Tabulate peak memory over the number of sequences.

    Returns
    -------
    str
        Markdown.
    """
    rows = []
    for path in sorted((RESULTS / "memory").glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        found: dict[str, list[dict]] = {}
        for row in report["tables"]["memory"]:
            found.setdefault(row["verb"], []).append(row)
        for verb, measured in found.items():
            peaks = ", ".join(f"{row['rows']:,}: {row['peak_memory_mb']:.0f} MB" for row in measured)
            rows.append([verb, peaks, report["machine"]["name"]])
    return table(["verb", "peak memory by rows", "machine"], rows) + "\n`python -m benchmarks.memory`.\n"


BLOCKS = {
    "faults": render_faults, "bad input": render_bad_input, "fuzz": render_fuzz, "numerics": render_numerics,
    "versions": render_versions, "memory": render_memory, "scaling": render_scaling,
}  # fmt: skip


def main(page: Path = PAGE) -> None:
    """Replace all blocks of the page.

    Parameters
    ----------
    page : Path
        Markdown file with the markers.
    """
    for name, render in BLOCKS.items():
        replace_block(page, name, render())


if __name__ == "__main__":
    main()
