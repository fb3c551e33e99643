"""Train the model with one idea at a time removed or replaced.

    python -m benchmarks.ablation --table measured_library.parquet --work runs/ablation

Trains `configs/ablation/base.yaml` and every variant in `variants.yaml` on split `train` of the table and scores them
on split `validation`. Results are written after each run to `results/ablation/`, so an interrupted command continues
where it stopped. Afterwards, it renders the table and the plot of docs/ablation.md. Without `--table` it only renders.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import mean, stdev

import yaml
from matplotlib.figure import Figure

from benchmarks.figures import RESULTS, ROOT, describe_machine, make_parser, run_script, write_json
from benchmarks.pages import replace_block, signed, table
from modeling_macaron.plots import BLUE, GREY, VERMILLION, save_figure
from modeling_macaron.training.model_card import TRAINING_FACTS

PAGE = ROOT / "docs" / "ablation.md"
BLOCK = "ablation"
RECIPES = ROOT / "configs" / "ablation"
RESULT = RESULTS / "ablation" / "library.json"
PLOT = RESULT.with_suffix(".png")
_MEASURES = ("pearson_r", "spearman_rho", "expression_loss", "reconstruction_loss")


@dataclass(frozen=True)
class Variant:
    """One change of the base recipe."""

    name: str  # in the results
    idea: str  # that is replaced
    variant: str  # what replaces it
    options: dict = field(default_factory=dict)  # of `scripts/train.py`
    paper: str = "-"  # result published by the team


def read_variants() -> list[Variant]:
    """Read the variants. The first is the base recipe."""
    return [Variant(**entry) for entry in yaml.safe_load((RECIPES / "variants.yaml").read_text(encoding="utf-8"))]


def train_variant(variant: Variant, seed: int, dataset: Path, threads: int) -> dict:
    """Train one variant with one seed in its own process. Returns its measures on the validation split.

    Raises a RuntimeError that names the log if the training fails.
    """
    output = dataset.parent / f"{variant.name}_seed{seed}"
    log = output.with_suffix(".log")
    shutil.rmtree(output, ignore_errors=True)
    options = {"dataset": dataset, "output_dir": output, "seed": seed, **variant.options}
    command = [sys.executable, ROOT / "scripts" / "train.py", RECIPES / "base.yaml"]
    command += [word for option, value in options.items() for word in (f"--{option}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{output.name}: training failed, see {log}")
    metrics, facts = (
        json.loads((output / name).read_text(encoding="utf-8"))
        for name in ("all_results.json", f"final/{TRAINING_FACTS}")
    )
    measures = {measure: metrics[f"eval_{measure}"] for measure in _MEASURES if f"eval_{measure}" in metrics}
    return {"variant": variant.name, "seed": seed, **measures, "parameters": facts["parameters"]}


def read_result(path: Path, recipe: dict, table: str) -> dict:
    """Read the results so far. Raises a ValueError if they are of another base recipe or table."""
    if not path.is_file():
        return {"recipe": recipe, "table": table, "runs": []}
    result = json.loads(path.read_text(encoding="utf-8"))
    if result["recipe"] != recipe or result["table"] != table:
        raise ValueError(f"{path} holds results of another base recipe or table: move it away first")
    return result


def values_of(result: dict, name: str, measure: str = "pearson_r") -> dict[int, float]:
    """Values of one variant by seed."""
    return {run["seed"]: run[measure] for run in result["runs"] if run["variant"] == name}


def changes_of(result: dict, name: str) -> list[float]:
    """Differences of Pearson's r from the base with the same seed."""
    base, own = values_of(result, "base"), values_of(result, name)
    return [own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())]


def _cells(result: dict, variant: Variant) -> list[str]:
    """Cells of a variant's line."""
    r, rho = (list(values_of(result, variant.name, measure).values()) for measure in ("pearson_r", "spearman_rho"))
    spread = f" ± {stdev(r):.4f}" if len(r) > 1 else ""
    change = ""
    if variant.name != "base":
        changes = changes_of(result, variant.name)
        error = f" ± {stdev(changes) / math.sqrt(len(changes)):.4f}" if len(changes) > 1 else ""
        change = signed(mean(changes)) + error
    parameters = next(run["parameters"] for run in result["runs"] if run["variant"] == variant.name)
    return [variant.idea, variant.variant, str(len(r)), f"{mean(r):.4f}{spread}", change, f"{mean(rho):.4f}",
            f"{parameters:,}", variant.paper]  # fmt: skip


def render_figures(result: dict, variants: list[Variant]) -> str:
    """Render the block of the page, with the variants that have results."""
    header = ["idea", "instead", "seeds", "Pearson r", "change of r", "Spearman rho", "parameters"]
    shown = [variant for variant in variants if values_of(result, variant.name)]
    rows = [[*header, "the team's finding"], *(_cells(result, variant) for variant in shown)]
    note = (
        f"{len(result['runs'])} runs on {result['machine']['name']} ({result['date']}, "
        f"torch {result['machine']['versions']['torch']}, `{result['command']}`). Pearson r: mean and standard "
        "deviation over seeds. Change: mean difference from the base with the same seed, with its standard error. "
        "Both need more than one seed. The team's finding: official Pearson / Spearman Score on "
        "the challenge's full data."
    )
    figures = table(rows, ["---", "---", *["---:"] * 5, "---"])
    return f"{figures}\n{note}\n\n![Change of validation r by idea](../{PLOT.relative_to(ROOT).as_posix()})\n"


def plot(result: dict, variants: list[Variant]) -> Figure:
    """Draw the change of validation r of every variant, with a point for each seed."""
    shown = [(variant.variant, changes_of(result, variant.name)) for variant in variants[1:]]
    shown = [(name, changes) for name, changes in shown if changes]
    figure = Figure(figsize=(6.7, 0.7 + 0.27 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=0.8)
    base = list(values_of(result, "base").values())
    spread = stdev(base) if len(base) > 1 else 0
    axes.axvspan(-spread, spread, color=GREY, alpha=0.15, linewidth=0, label="spread of the base over seeds")
    for row, (_, changes) in enumerate(shown):
        one, average = ("one seed", "mean") if row == 0 else (None, None)
        axes.plot(changes, [row] * len(changes), "o", color=BLUE, markersize=3, alpha=0.7, label=one)
        axes.plot(mean(changes), row, "|", color=VERMILLION, markersize=12, markeredgewidth=2, label=average)
    axes.set_yticks(range(len(shown)), [name.removesuffix(" (the plain encoder)") for name, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel("change of Pearson r on validation, against the base with the same seed", size=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=7, frameon=False, loc="outside lower center", ncols=3)
    return figure


def main(argv: list[str] | None = None) -> int:
    """Train the variants that have no result yet, and render the page from the committed results."""
    variants = read_variants()
    names = [variant.name for variant in variants]
    parser = make_parser("ablation", __doc__)
    parser.add_argument("--table", type=Path, help="measured promoters with a column split (default: only render)")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"), help="data, runs and logs (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON of the results")
    parser.add_argument("--strand_length", type=int, default=80, help="longest variable part in nt")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, 1 to N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="variants (default: all)")
    args = parser.parse_args(argv)
    failed = 0 if args.table is None else _train_missing(variants, args)
    if args.output == RESULT:
        result = json.loads(RESULT.read_text(encoding="utf-8"))
        replace_block(PAGE, BLOCK, render_figures(result, variants))
        save_figure(plot(result, variants), PLOT)
        print(f"{PAGE.name} and {PLOT.name} show {len(result['runs'])} runs")
    return failed


def _train_missing(variants: list[Variant], args: argparse.Namespace) -> int:
    """Train runs without results in parallel. Writes the results after each run. Returns 1 if a run failed."""
    recipe = yaml.safe_load((RECIPES / "base.yaml").read_text(encoding="utf-8"))
    result = read_result(args.output, recipe, args.table.name)
    dataset = args.work.resolve() / "data"
    if not dataset.is_dir():
        options = "--split_column", "split", "--strand_length", args.strand_length, "--output", dataset
        run_script("prepare_data", "--source", args.table.resolve(), *options)
    done = {(run["variant"], run["seed"]) for run in result["runs"]}
    todo = [
        (variant, seed)
        for seed in range(1, args.seeds + 1)
        for variant in variants
        if variant.name in args.only and (variant.name, seed) not in done
    ]
    failed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for run in [pool.submit(train_variant, *item, dataset, args.threads) for item in todo]:
            try:
                figures = run.result()
            except RuntimeError as error:
                print(f"error: {error}", file=sys.stderr)
                failed = 1
                continue
            result["runs"] = sorted([*result["runs"], figures], key=lambda entry: (entry["variant"], entry["seed"]))
            result |= {
                "date": date.today().isoformat(),
                "command": f"python -m benchmarks.ablation --table {args.table.name} --work {args.work.name}",
                "machine": describe_machine(),
                "jobs": args.jobs,
            }
            write_json(result, args.output)
            print(f"{figures['variant']:<28} seed {figures['seed']}   r {figures['pearson_r']:.4f}   "
                  f"rho {figures['spearman_rho']:.4f}", flush=True)  # fmt: skip
    return failed


if __name__ == "__main__":
    sys.exit(main())
