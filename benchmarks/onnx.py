"""Time ONNX Runtime beside PyTorch on this machine's processor, with the same threads.

    python -m benchmarks.onnx --checkpoint DIR

Exports the checkpoint with merged and separate projections, compares the numbers, and writes JSON.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import RESULTS, Results, describe_machine, result_path, time_in_turn
from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.analysis.export import TOLERANCE, export_onnx, open_session, random_promoters
from modeling_macaron.analysis.predict import load_model
from tokenization import reverse_complement

BATCH_SIZES = (1, 64)
SEQUENCES = 64
FOLDER = RESULTS / "onnx"


def run(results: Results, checkpoint: Path, folder: Path, threads: int, rounds: int = 4) -> None:
    """Export a checkpoint in both forms, check them, and time them beside PyTorch in turn.

    Each timed call predicts the same 64 promoters, one at a time or all at once.

    Parameters
    ----------
    results : Results
        Gets the figures.
    checkpoint : Path
        Folder of a model.
    folder : Path
        For the exported files.
    threads : int
        Of both libraries.
    rounds : int
        Timed rounds.
    """
    model, tokenizer = load_model(checkpoint, device="cpu", dtype="float32")
    strands = random_promoters(SEQUENCES, model.config.strand_length)
    ids = np.concatenate([strands, reverse_complement(strands)], axis=1).astype(np.int64)
    forms: dict[tuple[str, str], Callable[[np.ndarray], object]] = {}
    for projections in ("separate", "merged"):
        one = model.to_merged() if projections == "merged" else model
        for attention in ("sdpa", "eager"):
            forms[f"PyTorch {attention}", projections] = _pytorch(one, attention)
        path = folder / f"{projections}.onnx"
        export = export_onnx(model, path, tokenizer=tokenizer, merged=projections == "merged")
        results.check(f"ONNX Runtime = PyTorch, {projections}", export.error, TOLERANCE)
        results.figure(f"size of the file, {projections}", export.num_bytes / 1e6, "MB")
        forms["ONNX Runtime", projections] = _onnxruntime(path, threads)
    for batch_size in BATCH_SIZES:
        _time_forms(results, forms, ids, batch_size, rounds)


def _pytorch(model: MacaronForExpressionPrediction, attention: str) -> Callable[[np.ndarray], object]:
    """Prediction with one kind of attention."""
    model = copy.deepcopy(model)
    model.set_attn_implementation(attention)

    @torch.inference_mode()
    def predict(ids: np.ndarray) -> torch.Tensor:
        return model(torch.from_numpy(ids), output_nucleotide_logits=False).logits

    return predict


def _onnxruntime(path: Path, threads: int) -> Callable[[np.ndarray], object]:
    session = open_session(path, threads)
    return lambda ids: session.run(None, {"input_ids": ids})


def _time_forms(
    results: Results, forms: dict[tuple[str, str], Callable], ids: np.ndarray, batch_size: int, rounds: int
) -> None:
    """Time all forms in turn at one batch size, and compare the fastest of each library."""
    batches = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
    calls = {form: lambda predict=predict: [predict(batch) for batch in batches] for form, predict in forms.items()}
    seconds = time_in_turn(calls, rounds)
    for (library, projections), taken in seconds.items():
        results.row(
            "onnx",
            library=library,
            projections=projections,
            batch=batch_size,
            sequences_per_second=len(ids) / taken,
            milliseconds_per_batch=1000 * taken / len(batches),
        )
    best = {
        is_onnx: min(taken for (library, _), taken in seconds.items() if (library == "ONNX Runtime") == is_onnx)
        for is_onnx in (False, True)
    }
    name = f"ONNX Runtime against PyTorch, fastest form of each, batch {batch_size}"
    results.figure(name, best[False] / best[True], "x")


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="timed rounds; the fastest counts (%(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file to write; default: results/onnx/MACHINE.json")
    args = parser.parse_args(argv)
    if args.output is not None and (args.output.is_dir() or args.output.suffix != ".json"):
        parser.error(f"--output {args.output}: name a file that ends in .json")
    machine = describe_machine() | {"threads": args.threads}
    machine["versions"] |= {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}
    print(f"{machine['name']}, torch {machine['versions']['torch']}, {args.threads} threads")
    torch.set_num_threads(args.threads)
    results = Results("onnx", machine)
    with tempfile.TemporaryDirectory() as folder:
        run(results, args.checkpoint, Path(folder), args.threads, args.rounds)
    output = args.output or result_path(machine, FOLDER)
    results.save(output)
    print(f"\nwritten to {output}")
    return results.exit_code


if __name__ == "__main__":
    sys.exit(main())
