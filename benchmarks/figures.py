"""Results of a benchmark: measured figures, equalities that must hold, tables, and the machine."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

import psutil
import torch

from modeling_macaron.io.atomic import new_file
from modeling_macaron.machine import read_processor

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
_LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "numpy", "pyarrow")
_PROCESSOR_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Figure:
    """One measured value; None where it could not be measured, with the reason in `note`."""

    name: str
    value: float | None
    unit: str
    shown: bool = False  # in the README
    note: str = ""


@dataclass(frozen=True)
class Check:
    """One equality: the measured error and the error that is allowed."""

    name: str
    error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the error is allowed."""
        return self.error <= self.tolerance


@dataclass
class Results:
    """Results of one run, printed as they come.

    Attributes
    ----------
    kind : str
        Name of the benchmark.
    machine : dict
        See `describe_machine`.
    figures : list of Figure
        Measured values, in order.
    checks : list of Check
        Equalities, in order.
    tables : dict
        Series of measurements by name, each a list of dicts with equal keys.
    """

    kind: str
    machine: dict
    figures: list[Figure] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    tables: dict[str, list[dict]] = field(default_factory=dict)
    started: float = field(default_factory=perf_counter, repr=False)

    def figure(self, name: str, value: float | None, unit: str, shown: bool = False, note: str = "") -> None:
        """Add a figure and print it."""
        self.figures.append(Figure(name, value, unit, shown, note))
        print(f"  {name:<64} {show(value):>10} {unit}{f'   ({note})' if note else ''}", flush=True)

    def check(self, name: str, error: float, tolerance: float) -> None:
        """Add an equality and print whether it holds."""
        error = float(error)
        check = Check(name, error if math.isfinite(error) else sys.float_info.max, tolerance)  # JSON has no NaN
        self.checks.append(check)
        verdict = "holds" if check.holds else "FAILS"
        print(f"  {name:<64} {check.error:>10.1e} error   at most {tolerance:.0e}: {verdict}", flush=True)

    def row(self, table: str, /, **values) -> None:
        """Add a row to a table and print it."""
        self.tables.setdefault(table, []).append(values)
        print("  " + "   ".join(f"{name} {show(value)}" for name, value in values.items()), flush=True)

    @property
    def exit_code(self) -> int:
        """1 where an equality fails, else 0; a slow machine is not a failure."""
        return int(not all(check.holds for check in self.checks))

    def save(self, path: str | Path) -> None:
        """Write everything as JSON; an existing file is replaced."""
        program = f"benchmarks.{Path(sys.argv[0]).stem}"
        report = {
            "kind": self.kind,
            "date": date.today().isoformat(),
            "command": shlex.join(["python", "-m", program, *map(_file_name, sys.argv[1:])]),
            "seconds": round(perf_counter() - self.started),
            "machine": self.machine,
            "figures": [asdict(figure) for figure in self.figures],
            "checks": [asdict(check) | {"holds": check.holds} for check in self.checks],
            "tables": self.tables,
        }
        write_json(report, path)

    def finish(self, path: Path | None) -> int:
        """Save where there is a path, name the equalities that fail, and return the exit code."""
        if path is not None:
            self.save(path)
        failed = [check.name for check in self.checks if not check.holds]
        print(f"\n{f'written to {path}' if path else 'not written: name an --output'}")
        print(f"{len(self.checks)} equalities, {len(failed)} fail", *failed, sep="\n  ")
        return self.exit_code


def write_json(report: dict, path: str | Path) -> None:
    """Write a report; an existing file is replaced once the new one is complete."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as partial:
        partial.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def make_parser(module: str, description: str) -> ArgumentParser:
    """Make the parser of a module's command line; the description keeps its lines."""
    return ArgumentParser(
        prog=f"python -m benchmarks.{module}", description=description, formatter_class=RawDescriptionHelpFormatter
    )


def add_output(parser: ArgumentParser, default: str) -> None:
    """Add the option `--output`, which names a JSON file."""
    parser.add_argument("--output", type=_json_file, metavar="FILE", help=f"JSON file to write; default: {default}")


def _json_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or path.suffix != ".json":
        raise ArgumentTypeError(f"{text}: name a file that ends in .json")
    return path


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
        "versions": {name: _version(name) for name in _LIBRARIES},
    }
    if device.startswith("cuda"):
        about = torch.cuda.get_device_properties(device)
        gpu = {"gpu": about.name, "gpu_memory_gb": round(about.total_memory / 1e9), "cuda": torch.version.cuda}
        machine |= {"name": about.name, **gpu}
    return machine


def result_path(machine: dict, folder: Path = RESULTS) -> Path:
    """File for the results of a machine: one for each kind."""
    return folder / (re.sub(r"[^a-z0-9]+", "-", machine["name"].lower()).strip("-") + ".json")


def time_in_turn(calls: dict[str, Callable[[], object]], rounds: int = 4) -> dict[str, float]:
    """Seconds of the fastest call of each kind, taken in turn, so that a busy minute slows all alike."""
    best = dict.fromkeys(calls, float("inf"))
    for number in range(rounds + 1):
        for name, call in calls.items():
            started = perf_counter()
            call()
            if number:  # the first round warms up
                best[name] = min(best[name], perf_counter() - started)
    return best


def _file_name(argument: str) -> str:
    """Argument without the folders of a path: results are public."""
    return Path(argument).name if os.sep in argument else argument


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
