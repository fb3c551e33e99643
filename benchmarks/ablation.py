"""Take the model apart, one idea at a time: which of them carry it.

    python -m benchmarks.ablation --table measured_library.parquet --work runs/ablation

Trains `configs/ablation/base.yaml` and every variant in `variants.yaml` on split `train` of the table and scores them
on split `validation`. Results are written after each run to `results/ablation/`, so an interrupted command goes on
where it stopped. `python -m benchmarks.ablation_report` renders the table and the plot.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import yaml
from safetensors import safe_open

from benchmarks.figures import RESULTS, describe_machine
from modeling_macaron.atomic import new_file

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "configs" / "ablation"
RESULT = RESULTS / "ablation" / "library.json"
_MEASURES = ("pearson_r", "spearman_rho", "expression_loss", "reconstruction_loss")


@dataclass(frozen=True)
class Variant:
    """One change of the base recipe.

    Attributes
    ----------
    name : str
        Key of the results.
    idea, variant : str
        The idea that is taken away, and what stands in its place.
    options : dict
        Options of `scripts/train.py`.
    paper : str
        What the team published about it; empty where it published nothing.
    """

    name: str
    idea: str
    variant: str
    options: dict
    paper: str


def read_variants(path: Path = RECIPES / "variants.yaml") -> list[Variant]:
    """Read the variants; the first is the base itself.

    Parameters
    ----------
    path : Path
        YAML list of `name`, `idea`, `variant` and, where there are any, `options` and `paper`.

    Returns
    -------
    list of Variant
    """
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Variant(**({"options": {}, "paper": ""} | entry)) for entry in entries]


def prepare(table: Path, work: Path, strand_length: int) -> Path:
    """Prepare the table's own splits once, and return the data set folder."""
    folder = work / "data"
    if not (folder / "report.json").is_file():
        command = [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), "--source", str(table)]
        command += ["--split_column", "split", "--strand_length", str(strand_length), "--output", str(folder)]
        subprocess.run(command, check=True, cwd=ROOT)
    return folder


def train_variant(variant: Variant, seed: int, dataset: Path, work: Path, threads: int) -> dict:
    """Train one variant with one seed in a process of its own.

    Parameters
    ----------
    variant : Variant
        What to train.
    seed : int
        Seed of the weights, the order of the rows and the masks.
    dataset, work : Path
        Prepared data, and the folder for runs and their logs.
    threads : int
        Threads of the process.

    Returns
    -------
    dict
        `variant`, `seed`, measures of the validation split and `parameters`.

    Raises
    ------
    RuntimeError
        If the training fails; names its log.
    """
    name = f"{variant.name}_seed{seed}"
    output, log = work / name, work / f"{name}.log"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), str(RECIPES / "base.yaml")]
    command += ["--dataset", str(dataset), "--output_dir", str(output), "--seed", str(seed)]
    command += [word for option, value in variant.options.items() for word in (f"--{option}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: training failed, see {log}")
    metrics = json.loads((output / "all_results.json").read_text(encoding="utf-8"))
    with safe_open(output / "final" / "model.safetensors", "np") as weights:
        parameters = sum(weights.get_tensor(key).size for key in weights.keys())  # noqa: SIM118  no mapping
    return {
        "variant": variant.name,
        "seed": seed,
        **{measure: metrics[f"eval_{measure}"] for measure in _MEASURES if f"eval_{measure}" in metrics},
        "parameters": parameters,
    }


def read_result(path: Path, recipe: dict, table: str) -> dict:
    """Read the results so far; those of another recipe or table are refused.

    Raises
    ------
    ValueError
        If the file holds results of another base recipe or table.
    """
    if not path.is_file():
        return {"recipe": recipe, "table": table, "runs": []}
    result = json.loads(path.read_text(encoding="utf-8"))
    if result["recipe"] != recipe or result["table"] != table:
        raise ValueError(f"{path} holds results of another base recipe or table: move it away first")
    return result


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True, help="measured promoters with a column split")
    parser.add_argument("--work", type=Path, required=True, help="folder for prepared data, runs and logs")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON of the results")
    parser.add_argument("--strand_length", type=int, default=80, help="longest variable part in nt")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, 1 to N")
    parser.add_argument("--jobs", type=int, default=max(os.cpu_count() or 1, 1), help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--only", nargs="+", help="names of variants, by default all")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train what has no result yet."""
    parser = build_parser()
    args = parser.parse_args(argv)
    variants = read_variants()
    unknown = set(args.only or ()) - {variant.name for variant in variants}
    if unknown:
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(v.name for v in variants)}")
    if not args.table.is_file():
        parser.error(f"{args.table}: no such table")
    recipe = yaml.safe_load((RECIPES / "base.yaml").read_text(encoding="utf-8"))
    try:
        result = read_result(args.output, recipe, args.table.name)
    except ValueError as error:
        parser.error(str(error))
    args.work.mkdir(parents=True, exist_ok=True)
    dataset = prepare(args.table, args.work.resolve(), args.strand_length)
    done = {(run["variant"], run["seed"]) for run in result["runs"]}
    todo = [
        (variant, seed)
        for seed in range(1, args.seeds + 1)
        for variant in variants
        if (variant.name, seed) not in done and (not args.only or variant.name in args.only)
    ]
    return _train_all(todo, result, args, dataset)


def _train_all(todo: list[tuple[Variant, int]], result: dict, args: argparse.Namespace, dataset: Path) -> int:
    """Train variants side by side, and write the results after each; 1 where one failed."""
    failed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(train_variant, *item, dataset, args.work.resolve(), args.threads) for item in todo]
        for run in runs:
            try:
                figures = run.result()
            except RuntimeError as error:
                print(f"error: {error}", file=sys.stderr)
                failed = 1
                continue
            result["runs"].append(figures)
            result["runs"].sort(key=lambda entry: (entry["variant"], entry["seed"]))
            result |= {
                "date": date.today().isoformat(),
                "command": f"python -m benchmarks.ablation --table {args.table.name} --work {args.work.name}",
                "machine": describe_machine(),
                "jobs": args.jobs,
            }
            with new_file(args.output) as partial:
                partial.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            print(f"{figures['variant']:<28} seed {figures['seed']}   r {figures['pearson_r']:.4f}   "
                  f"rho {figures['spearman_rho']:.4f}", flush=True)  # fmt: skip
    return failed


if __name__ == "__main__":
    sys.exit(main())
