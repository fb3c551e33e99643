"""Check and time training and inference on a GPU: `python -m benchmarks.gpu [--only PART ...] [options]`.

The parts: `check` (float32 and bf16 on the device against float64 on the CPU), `verbs` (predictions, variant effects,
mutagenesis, attributions and designs of this repository's checkpoint against those on the CPU), `peak` (a bf16 matrix
product), `train` (training steps in a bare loop: plain and merged, eager and compiled, attention by batched products
and by each backend of PyTorch, then batch sizes), `inference` (the same), `profile` (parts and kernels of the best
training step), `variants` (changes to the training step that the library does not have), `trainer` (what
`scripts/train.py` does, beside a bare loop), `bulk` (a file from Parquet to Parquet) and `sharded` (FSDP through its
launch file, against a training without, and resumed). One JSON is written, and saved after each measurement; with
`--keep` the parts, and the two kinds of projections, can be run one command after another.
`--device cpu --size tiny` tries everything in some minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from time import monotonic

import torch

from benchmarks.figures import Check, Figure, Results, describe_machine, result_path
from benchmarks.gpu_checks import check_outputs
from benchmarks.gpu_setup import ATTENTIONS, LABELS, SIZES, Run
from benchmarks.gpu_sharded import check_sharded
from benchmarks.gpu_timing import measure_inference, measure_kernels, measure_peak, measure_training, print_forms
from benchmarks.gpu_variants import measure_variants
from benchmarks.gpu_verbs import check_verbs
from benchmarks.gpu_workflows import measure_bulk, measure_trainer

PARTS: dict[str, Callable[[Run], None]] = {
    "check": check_outputs,
    "verbs": check_verbs,
    "peak": measure_peak,
    "train": measure_training,
    "profile": measure_kernels,
    "variants": measure_variants,
    "inference": measure_inference,
    "trainer": measure_trainer,
    "bulk": measure_bulk,
    "sharded": check_sharded,
}
_NEED_PEAK = {"train", "inference", "trainer"}
_MODES = ("eager", "compiled")
_DEFAULT_ATTENTIONS = ("eager", "flash", "efficient", "cudnn", "math")
# What a part may fail with, on a device or with libraries that are not as hoped; the others go on.
_FAILURES = (RuntimeError, ValueError, TypeError, OSError, ImportError, KeyError)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, metavar="PART", help=f"parts to run: {', '.join(PARTS)} (default: all)")
    add("--device", help="default: cuda where there is one, else cpu")
    add("--size", choices=SIZES, default="paper", help="paper, or tiny to try the benchmark (default: paper)")
    add("--projections", nargs="+", choices=LABELS, default=list(LABELS), help="attention projections (default: both)")
    add("--modes", nargs="+", choices=_MODES, default=list(_MODES), help="default: both")
    add("--attention", nargs="+", choices=ATTENTIONS, default=list(_DEFAULT_ATTENTIONS), help="kinds to compare")
    add("--batch_sizes", nargs="+", type=_positive, metavar="N", help="for the best form (paper: 128 to 4096)")
    add("--steps", type=_positive, metavar="N", help="steps of a timed window (paper: 10)")
    add("--bulk_rows", type=_positive, metavar="N", help="rows of the file to predict (paper: 1,000,000)")
    add("--limit_s", type=_positive, metavar="N", help="begin no form after so many seconds")
    add("--compile_backend", default="inductor", help="backend of torch.compile (default: inductor)")
    add("--output", type=Path, metavar="FILE", help="JSON to write (default: one for each machine, beside this file)")
    add("--keep", action="store_true", help="keep what the output holds of parts and projections that are not run")
    return parser


def make_run(options: argparse.Namespace) -> Run:
    """Make the run that the options describe.

    Parameters
    ----------
    options : argparse.Namespace
        Of `make_parser`.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If there is no such device, no such backend of `torch.compile`, or the output cannot be continued.
    """
    device = _device(options.device)
    known = torch.compiler.list_backends(exclude_tags=())
    if options.compile_backend not in known:
        raise ValueError(f"--compile_backend {options.compile_backend}: choose one of {', '.join(known)}")
    size = SIZES[options.size]
    machine = {**describe_machine(str(device)), "size": options.size}
    output = options.output or default_output(machine, device)
    if output.suffix != ".json" or output.is_dir():
        raise ValueError(f"--output {output}: name a file that ends in .json")
    run = Run(
        results=Results("gpu", machine),
        output=output,
        device=device,
        size=options.size,
        batch_sizes=tuple(options.batch_sizes or size.batch_sizes),
        steps=options.steps or size.steps,
        projections=tuple(dict.fromkeys(options.projections)),
        modes=tuple(mode for mode in _MODES if mode in options.modes),
        attentions=tuple(dict.fromkeys(options.attention)),
        backend=options.compile_backend,
        bulk_rows=options.bulk_rows or size.bulk_rows,
        deadline=math.inf if options.limit_s is None else monotonic() + options.limit_s,
    )
    if options.keep and output.exists():
        keep_results(run, select_parts(options.only))
    return run


def _device(name: str | None) -> torch.device:
    """Device of that name, if it is there."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        raise ValueError("more than one GPU is visible: choose one with CUDA_VISIBLE_DEVICES")
    if device.type == "meta":
        raise ValueError("--device meta computes nothing")
    return device


def default_output(machine: dict, device: torch.device) -> Path:
    """File for the results of a machine; one that tries the benchmark does not replace the real one."""
    path = result_path(machine)
    if device.type != "cuda":
        path = path.with_stem(f"{path.stem}-gpu-benchmark")
    return path if machine["size"] == "paper" else path.with_stem(f"{path.stem}-{machine['size']}")


def select_parts(only: list[str] | None) -> list[str]:
    """Parts to run, in their order; utilization needs the peak."""
    only = set(only or PARTS)
    if only & _NEED_PEAK:
        only.add("peak")
    return [part for part in PARTS if part in only]


def keep_results(run: Run, parts: list[str]) -> None:
    """Take over what an earlier command found in other parts.

    Parameters
    ----------
    run : Run
        Gets figures, checks and rows of tables of other parts, and of projections that are not run now.
    parts : list of str
        Parts that are run now.

    Raises
    ------
    ValueError
        If the file is no result of this benchmark, or was measured on another machine or at another size.
    """
    try:
        earlier = json.loads(run.output.read_text(encoding="utf-8"))
        machine = {name: earlier["machine"][name] for name in ("name", "size")}
        figures, checks = (
            [kind(**{own.name: entry[own.name] for own in fields(kind)}) for entry in earlier[name]]
            for kind, name in ((Figure, "figures"), (Check, "checks"))
        )
        tables = dict(earlier["tables"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--keep: {run.output} is no result of this benchmark") from error
    if machine != {name: run.results.machine[name] for name in machine}:
        raise ValueError(f"--keep: {run.output} was measured on {machine['name']} at size {machine['size']}")
    others = [LABELS[projections] for projections in LABELS if projections not in run.projections]

    def stays(name: str) -> bool:
        part, _, rest = name.partition(": ")
        label = re.match(r"(\w+), ", rest)
        return part not in parts or (label is not None and label.group(1) in others)

    run.results.figures += [own for own in figures if stays(own.name)]
    run.results.checks += [own for own in checks if stays(own.name)]
    for name, rows in tables.items():
        kept = [row for row in rows if name not in parts or LABELS[row["projections"]] in others]
        if kept:
            run.results.tables[name] = kept


def run_parts(run: Run, parts: list[str]) -> list[str]:
    """Run parts one after another, and save after each.

    Parameters
    ----------
    run : Run
        What to run, and on what.
    parts : list of str
        Keys of `PARTS`.

    Returns
    -------
    list of str
        Parts that could not be run to their end; each leaves a figure without a value that says why.
    """
    failed = []
    for part in parts:
        print(f"{part}", flush=True)
        started = monotonic()
        try:
            PARTS[part](run)
        except _FAILURES as error:
            traceback.print_exc()
            failed.append(part)
            note = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            run.results.figure(f"{part}: did not run to its end", None, "", note=note[:400])
        run.save()
        print(f"  {part} took {monotonic() - started:.0f} s", flush=True)
    return failed


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark.

    Parameters
    ----------
    argv : list of str, optional
        Command line without the program's name; default: that of the process.

    Returns
    -------
    int
        0; 1 where an equality fails or a part did not run to its end.
    """
    options = make_parser().parse_args(argv)
    try:
        run = make_run(options)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{run.results.machine['name']}, PyTorch {torch.__version__}, size {run.size}", flush=True)
    failed = run_parts(run, select_parts(options.only))
    print_forms(run)
    run.save()
    print(f"written to {run.output}")
    missed = [check.name for check in run.results.checks if not check.holds]
    if missed:
        print("these equalities fail:", *missed, sep="\n  ")
    if failed:
        print(f"these parts did not run to their end: {', '.join(failed)}")
    return int(bool(failed)) or run.results.exit_code


if __name__ == "__main__":
    sys.exit(main())
