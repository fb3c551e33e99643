"""Train a recipe with one setting changed at a time, over several seeds.

    python -m benchmarks.sweep --dataset DIR --recipe configs/yeast.yaml --output OUT [--device cuda] [--report]

Trains on split `train` of a prepared data set, one run after the other, and scores the end of each run on split
`validation`. All settings run with the first seed before any runs with the second. Each run adds a line to
OUT/results.jsonl. The same command skips finished runs and continues. `--report` prints a Markdown table of the lines,
and nothing is trained without `--dataset`. `--size tiny --epochs 0.1` runs everything on a CPU. One small model does
not fill a GPU: start several processes with `--share 0/4`, `--share 1/4`, ... and the same --output.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import pandas as pd
import torch
import yaml
from transformers import PrinterCallback, set_seed

from benchmarks.figures import describe_machine, make_parser
from benchmarks.pages import signed, table
from modeling_macaron.analysis.command_line import prepare_process
from modeling_macaron.training.arguments import parse_recipe
from modeling_macaron.training.dataset import PreparedData
from modeling_macaron.training.run import build_model, make_trainer
from modeling_macaron.training.trainer import MacaronTrainer

RECIPE = "recipe"
SETTINGS: dict[str, dict] = {
    RECIPE: {},
    "mean squared error": {"expression_bins": 0},
    "12 bins": {"expression_bins": 12},
    "36 bins": {"expression_bins": 36},
    "dropout 0.1": {"hidden_dropout": 0.1},
    "dropout 0.05": {"hidden_dropout": 0.05},
    "heads of 128, merged": {"head_dim": 128, "attention_projections": "merged"},
    "kernel 7": {"conv_kernel_size": 7},
    "kernel 25": {"conv_kernel_size": 25},
    "6 blocks": {"num_hidden_layers": 6},
    "width 192": {"hidden_size": 192, "intermediate_size": 384},
    "batch 128": {"global_batch_size": 128},
    "learning rate 1e-3": {"learning_rate": 1.0e-3},
    "learning rate 2.5e-3": {"learning_rate": 2.5e-3},
    "no average of weights": {"ema_decay": None},
    "half of the rows reversed": {"reverse_probability": 0.5, "both_orientations": True},
    "gradient norm 5": {"max_grad_norm": 5.0},
}
SIZES: dict[str, dict] = {
    "recipe": {},
    "tiny": {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "torch_compile": False},
    "medium": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 512},
    "large": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 768},
}
QUIET = {  # only train, without evaluating or saving
    "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "early_stopping_patience": None,
    "report_to": "none", "disable_tqdm": True, "logging_steps": 100,
}  # fmt: skip
_MEASURES = ("pearson_r", "spearman_rho", "seconds", "parameters")
_DEVICES: dict[str, dict] = {  # on a GPU, compiling takes longer than a run
    "cpu": {"use_cpu": True},
    "cuda": {"use_cpu": False, "torch_compile": False, "attn_implementation": "sdpa"},
}


def options_of(setting: dict, args: argparse.Namespace) -> dict:
    """Return the options of a run: the recipe, changed by size and setting."""
    recipe = yaml.safe_load(args.recipe.read_text(encoding="utf-8"))
    paths = {"dataset": str(args.dataset), "output_dir": str(args.output / "run")}
    length = {"num_train_epochs": args.epochs, "max_steps": -1}
    return recipe | SIZES[args.size] | setting | _DEVICES[args.device] | QUIET | paths | length


def build_trainer(options: dict, recipe: Path) -> MacaronTrainer:
    """Write the options to the file `recipe` and make its trainer."""
    recipe.write_text(yaml.safe_dump(options), encoding="utf-8")
    model_arguments, arguments = parse_recipe([str(recipe)])
    torch.compiler.reset()  # models of a process share one limit of compiled shapes
    set_seed(arguments.seed)
    data = PreparedData(arguments.dataset)
    model = build_model(model_arguments, data, arguments.init_from, arguments.expression_bins)
    trainer = make_trainer(model, arguments, data)
    trainer.remove_callback(PrinterCallback)
    return trainer


def train_once(options: dict, recipe: Path) -> dict:
    """Train once and return the measures of the validation split, or a `problem` if a loss is not finite."""
    trainer = build_trainer(options, recipe)
    started = time.monotonic()
    try:
        trainer.train()
    except FloatingPointError as error:
        return {"problem": str(error)}
    seconds = time.monotonic() - started
    measures = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval").metrics
    return {
        "pearson_r": measures["eval_pearson_r"],
        "spearman_rho": measures["eval_spearman_rho"],
        "seconds": round(seconds, 1),
        "steps": trainer.state.global_step,
        "parameters": trainer.model.num_parameters(),
        "device": describe_machine(trainer.args.device.type)["name"],
    }


def read_lines(path: Path) -> list[dict]:
    """Read the results so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def sweep(settings: dict[str, dict], args: argparse.Namespace) -> None:
    """Train settings that have no line yet while the time allows another run."""
    path, began, longest = args.output / "results.jsonl", time.monotonic(), 0.0
    args.output.mkdir(parents=True, exist_ok=True)
    todo = {name: options_of(setting, args) for name, setting in settings.items()}
    done = {(line["setting"], line["seed"]): line["options"] for line in read_lines(path)}
    if changed := sorted({name for (name, _), options in done.items() if options != todo.get(name, options)}):
        raise ValueError(f"{path} has runs of {changed[0]!r} with other options: choose another --output")
    mine, shares = map(int, args.share.split("/"))
    for seed, name in [(seed, name) for seed in range(1, args.seeds + 1) for name in todo][mine::shares]:
        if (name, seed) in done:
            continue
        if time.monotonic() - began + longest > 60 * args.minutes:
            print("the time is up: run the same command to continue")
            return
        started = time.monotonic()
        result = train_once(todo[name] | {"seed": seed}, args.output / f"recipe{mine}.yaml")
        longest = max(longest, time.monotonic() - started)
        line = {"setting": name, "seed": seed, **result, "options": todo[name]}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{name:<24} seed {seed}   {result.get('problem') or format(result['pearson_r'], '.4f')}", flush=True)


def report(lines: list[dict]) -> str:
    """Make a Markdown table of the mean and range of r and its mean difference from the recipe with the same seed."""
    frame = pd.DataFrame(lines, columns=["setting", "seed", *_MEASURES])
    base = frame[frame.setting == RECIPE].set_index("seed").pearson_r
    frame["change"] = frame.pearson_r - frame.seed.map(base)
    rows = [["setting", "seeds", "Pearson r", "range", "difference", "Spearman rho", "parameters", "s a run"]]
    for name, own in frame.groupby("setting", sort=False):
        good = own.dropna(subset="pearson_r")
        if good.empty:
            rows.append([name, len(own), "diverged", *["-"] * 5])
            continue
        r, change = good.pearson_r, good.change.mean()
        shown = "-" if name == RECIPE or pd.isna(change) else signed(change)
        rows.append([name, len(r), f"{r.mean():.4f}", f"{r.min():.4f} to {r.max():.4f}", shown,
                     f"{good.spearman_rho.mean():.4f}", f"{good.parameters.iloc[0]:,.0f}",
                     f"{good.seconds.mean():.0f}"])  # fmt: skip
    return table(rows, ["---", *["---:"] * 7])


def main(argv: list[str] | None = None) -> None:
    """Sweep if a data set is given, and report."""
    parser = make_parser("sweep", __doc__)
    parser.add_argument("--dataset", type=Path, help="folder written by scripts/prepare_data.py")
    parser.add_argument("--recipe", type=Path, default=Path("configs/yeast.yaml"), help="%(default)s")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT", help="folder of results.jsonl")
    parser.add_argument("--settings", type=Path, help="YAML file of `name: {option: value}`, replacing the defaults")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of a setting, 1 to N (%(default)s)")
    parser.add_argument("--epochs", type=float, default=3.0, help="passes over the rows (%(default)s)")
    parser.add_argument("--minutes", type=float, default=8.0, help="start no run that would end later (%(default)s)")
    parser.add_argument("--size", choices=SIZES, default="recipe", help="size of the model (%(default)s)")
    parser.add_argument("--device", choices=_DEVICES, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--share", default="0/1", metavar="I/N", help="every N-th run, from the I-th (%(default)s)")
    parser.add_argument("--report", action="store_true", help="print a Markdown table of all results")
    args = parser.parse_args(argv)
    settings = SETTINGS if args.settings is None else yaml.safe_load(args.settings.read_text(encoding="utf-8"))
    prepare_process()
    if args.dataset is not None:
        sweep({RECIPE: {}} | settings, args)
    if args.report:
        print(report(read_lines(args.output / "results.jsonl")), end="")


if __name__ == "__main__":
    sys.exit(main())
