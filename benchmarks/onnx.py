"""Time ONNX Runtime and PyTorch on this machine's processor with the same number of threads.

    python -m benchmarks.onnx --checkpoint DIR

Exports the checkpoint with merged and separate projections, compares the numbers, and writes JSON into `results/onnx/`.
"""

from __future__ import annotations

import copy
import math
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import RESULTS, Results, describe_machine, make_parser, result_path, time_in_turn
from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.dna import both_strands
from modeling_macaron.export import TOLERANCE, export_onnx, open_session, random_promoters
from modeling_macaron.predictor import Predictor

BATCH_SIZES = (1, 64)
SEQUENCES = 64


def run(results: Results, checkpoint: Path, folder: Path, threads: int, rounds: int = 4) -> None:
    """Export a checkpoint in both forms, compare the numbers, and time 64 promoters with each library."""
    predictor = Predictor.from_pretrained(checkpoint, device="cpu", dtype="float32")
    model = predictor.model
    strands = random_promoters(SEQUENCES, model.config.strand_length)
    ids = both_strands(strands).astype(np.int64)
    forms: dict[tuple[str, str], Callable[[np.ndarray], object]] = {}
    for projections in ("separate", "merged"):
        for attention in ("sdpa", "eager"):
            own = model.to_merged() if projections == "merged" else copy.deepcopy(model)
            own.set_attn_implementation(attention)
            forms[f"PyTorch {attention}", projections] = partial(_predict, own)
        path = folder / f"{projections}.onnx"
        export = export_onnx(predictor, path, merged=projections == "merged")
        results.check(f"ONNX Runtime = PyTorch, {projections}", export.error, TOLERANCE)
        results.figure(f"size of the file, {projections}", export.num_bytes / 1e6, "MB")
        session = open_session(path, threads)
        forms["ONNX Runtime", projections] = lambda ids, session=session: session.run(None, {"input_ids": ids})
    for batch_size in BATCH_SIZES:
        batches = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
        calls = {
            form: lambda predict=predict, batches=batches: [predict(batch) for batch in batches]
            for form, predict in forms.items()
        }
        fastest = {"PyTorch": math.inf, "ONNX": math.inf}
        for (library, projections), seconds in time_in_turn(calls, rounds).items():
            results.row(
                "onnx", library=library, projections=projections, batch=batch_size,
                sequences_per_second=len(ids) / seconds, milliseconds_per_batch=1000 * seconds / len(batches),
            )  # fmt: skip
            kind = library.split()[0]
            fastest[kind] = min(fastest[kind], seconds)
        name = f"ONNX Runtime against PyTorch, fastest form of each, batch {batch_size}"
        results.figure(name, fastest["PyTorch"] / fastest["ONNX"], "x")


@torch.inference_mode()
def _predict(model: MacaronForExpressionPrediction, ids: np.ndarray) -> torch.Tensor:
    return model(torch.from_numpy(ids), output_nucleotide_logits=False).logits


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = make_parser("onnx", __doc__, "results/onnx/MACHINE.json")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each library (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="timed rounds; the fastest counts (%(default)s)")
    args = parser.parse_args(argv)
    machine = describe_machine() | {"threads": args.threads}
    machine["versions"] |= {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}
    print(f"{machine['name']}, torch {machine['versions']['torch']}, {args.threads} threads")
    torch.set_num_threads(args.threads)
    results = Results("onnx", machine)
    with tempfile.TemporaryDirectory() as folder:
        run(results, args.checkpoint, Path(folder), args.threads, args.rounds)
    return results.finish(args.output or result_path(machine, RESULTS / "onnx"))


if __name__ == "__main__":
    sys.exit(main())
