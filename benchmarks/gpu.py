"""Check and time training and inference on a GPU.

    python -m benchmarks.gpu [--only PART ...] [options]

The parts:

check      outputs and gradients against float64 on the CPU; the checkpoint of this repository against float32 there
peak       a bf16 matrix product; the other rates are given as a share of it too
train      training steps in a bare loop: plain and merged projections, eager and compiled, both kinds of attention
inference  the same with bf16 weights, all outputs and the expression alone
profile    a training step by part of the model and by kernel
variants   changes to the training step that the library does not have
trainer    the Trainer with configs/one_gpu.yaml

`--device cpu --size tiny` tries everything without a GPU in some minutes.
"""

from __future__ import annotations

import argparse
import math
import sys
import traceback
from collections.abc import Callable
from time import monotonic

import torch

from benchmarks.figures import Results, add_output, describe_machine, make_parser, result_path
from benchmarks.gpu_parts import (
    check_numbers,
    first_line,
    measure_inference,
    measure_peak,
    measure_trainer,
    measure_training,
    measure_variants,
    profile_training,
)
from benchmarks.gpu_setup import LABELS, SIZES, Run

PARTS: dict[str, Callable[[Run], None]] = {
    "check": check_numbers,
    "peak": measure_peak,
    "train": measure_training,
    "inference": measure_inference,
    "profile": profile_training,
    "variants": measure_variants,
    "trainer": measure_trainer,
}
_NEED_PEAK = {"train", "inference", "trainer"}
_MODES = ("eager", "compiled")
# A part may fail with these on a device or with libraries it was not written for; the others still run.
_FAILURES = (RuntimeError, ValueError, TypeError, OSError, ImportError, KeyError)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = make_parser("gpu", __doc__)
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, metavar="PART", help=f"parts to run: {', '.join(PARTS)} (default: all)")
    add("--device", help="default: cuda where there is one, else cpu")
    add("--size", choices=SIZES, default="paper", help="paper, or tiny to try the benchmark (default: paper)")
    add("--projections", nargs="+", choices=LABELS, default=list(LABELS), help="default: both")
    add("--modes", nargs="+", choices=_MODES, default=list(_MODES), help="default: both")
    add("--batch_sizes", nargs="+", type=int, default=[], metavar="N", help="more of them, in the best form")
    add("--limit_s", type=int, metavar="N", help="start no measurement after this many seconds")
    add("--compile_backend", default="inductor", help="backend of torch.compile (default: inductor)")
    add_output(parser, "of all parts at the paper's size on a GPU, results/MACHINE.json")
    return parser


def make_run(options: argparse.Namespace) -> Run:
    """Make the run that the options describe; raises ValueError for a device or backend that does not exist."""
    device = _device(options.device)
    known = torch.compiler.list_backends(exclude_tags=())
    if options.compile_backend not in known:
        raise ValueError(f"--compile_backend {options.compile_backend}: choose one of {', '.join(known)}")
    machine = {**describe_machine(str(device)), "size": options.size}
    whole = (device.type, options.size, options.only, len(options.projections)) == ("cuda", "paper", None, len(LABELS))
    return Run(
        results=Results("gpu", machine),
        output=options.output or (result_path(machine) if whole else None),
        device=device,
        size=options.size,
        projections=tuple(name for name in LABELS if name in options.projections),
        modes=tuple(mode for mode in _MODES if mode in options.modes),
        batch_sizes=tuple(dict.fromkeys(options.batch_sizes)),
        backend=options.compile_backend,
        deadline=math.inf if options.limit_s is None else monotonic() + options.limit_s,
    )


def _device(name: str | None) -> torch.device:
    """Device of that name, if it can be used."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name} cannot be used: {first_line(error)}") from error
    if device.type == "meta":
        raise ValueError("--device meta computes nothing")
    return device


def run_parts(run: Run, parts: list[str]) -> list[str]:
    """Run parts in order and save after each; returns those that failed, which leave a figure without a value."""
    failed = []
    for part in parts:
        print(f"{part}", flush=True)
        started = monotonic()
        try:
            PARTS[part](run)
        except _FAILURES as error:
            traceback.print_exc()
            failed.append(part)
            run.results.figure(f"{part}: failed", None, "", note=f"{type(error).__name__}: {first_line(error)}")
        run.save()
        print(f"  {part} took {monotonic() - started:.0f} s", flush=True)
    return failed


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns 1 where an equality fails or a part did."""
    parser = build_parser()
    options = parser.parse_args(argv)
    try:
        run = make_run(options)
    except ValueError as error:
        parser.error(str(error))
    print(f"{run.results.machine['name']}, PyTorch {torch.__version__}, size {run.size}", flush=True)
    only = set(options.only or PARTS)
    if only & _NEED_PEAK:
        only.add("peak")
    failed = run_parts(run, [part for part in PARTS if part in only])
    code = run.results.finish(run.output)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed)) or code


if __name__ == "__main__":
    sys.exit(main())
