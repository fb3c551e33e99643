"""Results, machine description and timing of benchmarks."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Hashable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import psutil
import torch

from modeling_macaron.atomic import new_file
from modeling_macaron.machine import read_processor

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
_LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "numpy", "pyarrow")
_PROCESSOR_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
# VmHWM is the peak of this process alone. `ru_maxrss` includes the parent's peak before the fork.
_MEASURED = """
import importlib, re, resource, sys
importlib.import_module("scripts." + sys.argv[1]).main(sys.argv[2:])
try:
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1000)
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
"""


class Results:
    """Figures, equalities (`checks`) and tables of one run. Prints each when it is added."""

    def __init__(self, kind: str, machine: dict):
        self.kind, self.machine = kind, machine
        self.figures: list[dict] = []
        self.checks: list[dict] = []
        self.tables: dict[str, list[dict]] = {}
        self.started = perf_counter()

    def figure(self, name: str, value: float, unit: str, shown: bool = False, note: str = "") -> None:
        """Add a measured value. `shown` puts it into the README."""
        self.figures.append({"name": name, "value": value, "unit": unit, "shown": shown, "note": note})
        print(f"  {name:<64} {show(value):>10} {unit}{f'   ({note})' if note else ''}", flush=True)

    def check(self, name: str, error: float, tolerance: float) -> None:
        """Add an equality with its measured and allowed error."""
        error = float(error) if math.isfinite(error) else sys.float_info.max  # JSON has no NaN
        holds = error <= tolerance
        self.checks.append({"name": name, "error": error, "tolerance": tolerance, "holds": holds})
        verdict = "holds" if holds else "FAILS"
        print(f"  {name:<64} {error:>10.1e} error   at most {tolerance:.0e}: {verdict}", flush=True)

    def row(self, table: str, /, **values) -> None:
        """Add a row to a table. All its rows have the same keys."""
        self.tables.setdefault(table, []).append(values)
        print("  " + "   ".join(f"{name} {show(value)}" for name, value in values.items()), flush=True)

    def save(self, path: Path) -> None:
        """Write everything as JSON, replacing an existing file."""
        arguments = [Path(word).name if os.sep in word else word for word in sys.argv[1:]]  # results are public
        report = {
            "kind": self.kind,
            "date": date.today().isoformat(),
            "command": shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *arguments]),
            "seconds": round(perf_counter() - self.started),
            "machine": self.machine,
            "figures": self.figures,
            "checks": self.checks,
            "tables": self.tables,
        }
        write_json(report, path)

    def finish(self, path: Path | None) -> int:
        """Save if there is a path, and print the equalities that fail. Returns 1 if any fails, else 0."""
        if path is not None:
            self.save(path)
        failed = [check["name"] for check in self.checks if not check["holds"]]
        print(f"\n{f'written to {path}' if path else 'not written: pass --output FILE'}")
        print(f"{len(self.checks)} equalities, {len(failed)} fail", *failed, sep="\n  ")
        return int(bool(failed))


def write_json(report: dict, path: Path) -> None:
    """Write a report. Replaces an existing file once the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as partial:
        partial.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def make_parser(module: str, description: str, output: str | None = None) -> ArgumentParser:
    """Make the parser of a module. Adds `--output FILE` if `output` describes its default."""
    parser = ArgumentParser(
        prog=f"python -m benchmarks.{module}", description=description, formatter_class=RawDescriptionHelpFormatter
    )
    if output is not None:
        parser.add_argument("--output", type=Path, metavar="FILE", help=f"JSON file to write; default: {output}")
    return parser


def show(value: object) -> str:
    """Format a value: three to four digits, thousands with commas."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def describe_machine(device: str = "cpu") -> dict:
    """Describe the machine: a short name, processor, memory, GPU, and versions of the libraries."""
    processor, flags = read_processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = {
        "name": f"{cores} {'core' if cores == 1 else 'cores'} of {processor}",
        "processor": processor,
        "cores": cores,
        "instruction_sets": [flag for flag in _PROCESSOR_FLAGS if flag in flags],
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _LIBRARIES},
    }
    if device == "cuda":
        about = torch.cuda.get_device_properties(device)
        gpu = {"gpu": about.name, "gpu_memory_gb": round(about.total_memory / 1e9), "cuda": torch.version.cuda}
        machine |= {"name": about.name, **gpu}
    return machine


def result_path(machine: dict, folder: Path = RESULTS) -> Path:
    """File for the results of a kind of machine."""
    return folder / (re.sub(r"[^a-z0-9]+", "-", machine["name"].lower()).strip("-") + ".json")


def time_in_turn(
    calls: dict[Hashable, Callable[[], object]], rounds: int = 4, clock: Callable[[], float] = perf_counter
) -> dict[Hashable, float]:
    """Return the seconds of the fastest call of each kind. Calls take turns, so a busy machine slows all equally."""
    best = dict.fromkeys(calls, math.inf)
    for number in range(rounds + 1):
        for name, call in calls.items():
            started = clock()
            call()
            if number:  # the first round warms up
                best[name] = min(best[name], clock() - started)
    return best


def relative_error(values: torch.Tensor, reference: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference, in float64 on the CPU."""
    values, reference = values.double().cpu(), reference.double().cpu()
    return (torch.linalg.vector_norm(values - reference) / torch.linalg.vector_norm(reference)).item()


def run_script(script: str, *arguments: object, folder: Path = ROOT) -> tuple[float, float]:
    """Run a file of `scripts/` in its own process. Returns its seconds, with Python's start, and its peak MB."""
    started = perf_counter()
    command = [sys.executable, "-c", _MEASURED, script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"scripts/{script}.py failed: {done.stderr[-1000:]}")
    return perf_counter() - started, float(done.stdout.splitlines()[-1])
