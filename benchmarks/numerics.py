"""Compare number formats on trained weights, and trainings on one and several processes.

    python -m benchmarks.numerics --table measured_library.parquet

Predictions of promoters kept out of training, in half precision against float32 and float64; then a short training
twice from one seed, and on 1, 2 and 4 processes and with accumulation, which must give the same losses. Writes JSON
into `results/reliability/`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch

from benchmarks.faults import difference, training_command
from benchmarks.figures import RESULTS, Results, describe_machine
from benchmarks.killing import run_to_the_end
from benchmarks.peak_memory import ROOT
from modeling_macaron.analysis.measurements import load_measurements
from modeling_macaron.analysis.predict import load_model, predict

OUTPUT = RESULTS / "reliability" / "numerics.json"
CHECKPOINT = ROOT / "checkpoints/macaron-promoter-library"
FORMATS = {
    "float32": ("float32", None), "bfloat16 autocast": ("float32", torch.bfloat16),
    "float16 autocast": ("float32", torch.float16), "bfloat16 weights": ("bfloat16", None),
    "float16 weights": ("float16", None),
}  # fmt: skip
FLOAT32_ERROR, HALF_ERROR, HALF_R = 1e-5, 0.1, 0.002  # allowed, in standard deviations; and of r
LOSS_ERROR, WEIGHT_ERROR = 1e-5, 1e-3  # allowed of other ways to train


def compare_formats(results: Results, checkpoint: Path, sequences: list[str], measured: np.ndarray) -> None:
    """Predict in each format, and compare with float64.

    Parameters
    ----------
    results : Results
        Gets a row for each format.
    checkpoint : Path
        Folder of a trained model.
    sequences : list of str
        (rows,) promoters.
    measured : numpy.ndarray
        (rows,) their measurements.
    """
    model, tokenizer = load_model(checkpoint, dtype="float64")
    exact = predict(model, sequences, tokenizer=tokenizer)
    exact_r = float(np.corrcoef(exact, measured)[0, 1])
    for name, (dtype, autocast) in FORMATS.items():
        model, tokenizer = load_model(checkpoint, dtype=dtype)
        context: AbstractContextManager = nullcontext()
        if autocast is not None:
            context = torch.autocast(model.device.type, dtype=autocast)
        with context:
            values = predict(model, sequences, tokenizer=tokenizer)
        error = np.abs(values - exact) / model.config.expression_std
        r = float(np.corrcoef(values, measured)[0, 1])
        results.row("formats", format=name, rows=len(sequences), largest_error_sd=float(error.max()),
                    rms_error_sd=float(np.sqrt((error**2).mean())), pearson_r=r, change_of_r=r - exact_r)  # fmt: skip
        allowed = FLOAT32_ERROR if name == "float32" else HALF_ERROR
        results.check(f"{name}: largest error, in standard deviations", float(error.max()), allowed)
        results.check(f"{name}: change of r", abs(r - exact_r), HALF_R)


def losses_of(output: Path) -> np.ndarray:
    """Training losses in order."""
    last = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))
    return np.array([entry["loss"] for entry in state["log_history"] if "loss" in entry])


def compare_trainings(results: Results, folder: Path) -> None:
    """Train in several ways, and compare losses and weights with one process.

    Parameters
    ----------
    results : Results
        Gets a row for each way.
    folder : Path
        For data and runs.
    """
    run_to_the_end([sys.executable, "scripts/simulate.py", str(folder / "few.tsv"), "--num_sequences", "400"])
    run_to_the_end([
        sys.executable, "scripts/prepare_data.py", "--strand_length", "80", "--source", str(folder / "few.tsv"),
        "--output", str(folder / "data"),
    ])  # fmt: skip
    ways = {
        "one process": (1, []), "one process again": (1, []), "two processes": (2, []), "four processes": (4, []),
        "one process, two steps a batch": (1, ["--gradient_accumulation_steps", "2"]),
        "two processes, two steps a batch": (2, ["--gradient_accumulation_steps", "2"]),
    }  # fmt: skip
    first: Path | None = None
    for name, (processes, options) in ways.items():
        output = folder / name.replace(" ", "-").replace(",", "")
        # Dropout draws other numbers on other processes.
        run_to_the_end([*training_command(folder / "data", output, processes), "--hidden_dropout", "0.0", *options])
        if first is None:
            first = output
            continue
        one, other = losses_of(first), losses_of(output)
        loss_error = float(np.abs(other / one - 1).max())
        weights = difference(first / "final/model.safetensors", output / "final/model.safetensors")
        results.row("trainings", way=name, steps=40, largest_relative_loss_error=loss_error, weight_difference=weights)
        again = name == "one process again"
        results.check(f"{name}: losses against one process", loss_error, 0.0 if again else LOSS_ERROR)
        results.check(f"{name}: final weights against one process", weights, 0.0 if again else WEIGHT_ERROR)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.numerics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True, help="measured promoters; split `validation` is taken")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="a trained model (%(default)s)")
    parser.add_argument("--rows", type=int, default=2_000, help="most promoters (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write")
    args = parser.parse_args(argv)
    results = Results("numerics", describe_machine())
    rows = load_measurements(args.table, split="validation").rows.iloc[: args.rows]
    compare_formats(results, args.checkpoint, rows["sequence"].tolist(), rows["activity"].to_numpy())
    with tempfile.TemporaryDirectory() as folder:
        compare_trainings(results, Path(folder))
    results.save(args.output)
    print(f"\nwritten to {args.output}")
    return results.exit_code


if __name__ == "__main__":
    sys.exit(main())
