"""Figures of a benchmark run: measured values beside their bars, equalities that must hold, and the machine."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

import psutil
import torch

from modeling_macaron.atomic import new_file
from modeling_macaron.training.hardware import read_processor

RESULTS = Path(__file__).parent / "results"
_LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "numpy", "pyarrow")
_PROCESSOR_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Figure:
    """One measured value.

    Attributes
    ----------
    name : str
        What was measured.
    value : float or None
        The value; None where it could not be measured, which `note` explains.
    unit : str
        Its unit.
    bar : float or None
        What it should reach.
    lower_is_better : bool
        Whether the value should stay below its bar.
    note : str
        What a reader must know.
    """

    name: str
    value: float | None
    unit: str
    bar: float | None = None
    lower_is_better: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """`"reached"`, `"missed"`, or empty where there is nothing to compare."""
        if self.bar is None or self.value is None:
            return ""
        reached = self.value <= self.bar if self.lower_is_better else self.value >= self.bar
        return "reached" if reached else "missed"


@dataclass(frozen=True)
class Check:
    """One equality: the error that was measured and the error that is allowed."""

    name: str
    error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the error is allowed."""
        return self.error <= self.tolerance


@dataclass
class Results:
    """What one run of a benchmark found, printed as it goes.

    Attributes
    ----------
    kind : str
        `"cpu"` or `"gpu"`.
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

    def figure(self, name: str, value: float | None, unit: str, **options) -> Figure:
        """Add a figure and print it beside its bar; see `Figure` for the options."""
        figure = Figure(name, value, unit, **options)
        self.figures.append(figure)
        sign = "<=" if figure.lower_is_better else ">="
        beside = "" if figure.bar is None else f"   bar {sign} {show(figure.bar)}: {figure.verdict or 'not measured'}"
        note = f"   ({figure.note})" if figure.note else ""
        print(f"  {name:<64} {show(value):>10} {unit}{beside}{note}", flush=True)
        return figure

    def check(self, name: str, error: float, tolerance: float) -> Check:
        """Add an equality and print whether it holds."""
        error = float(error)
        check = Check(name, error if math.isfinite(error) else sys.float_info.max, tolerance)  # JSON knows no NaN
        self.checks.append(check)
        verdict = "holds" if check.holds else "FAILS"
        print(f"  {name:<64} {check.error:>10.1e} error   at most {tolerance:.0e}: {verdict}", flush=True)
        return check

    def row(self, table: str, /, **values) -> None:
        """Add a row to a table and print it."""
        self.tables.setdefault(table, []).append(values)
        print("  " + "   ".join(f"{name} {show(value)}" for name, value in values.items()), flush=True)

    @property
    def exit_code(self) -> int:
        """1 where an equality fails, else 0: a slow machine is no fault."""
        return int(not all(check.holds for check in self.checks))

    def save(self, path: str | Path) -> None:
        """Write everything as JSON.

        Parameters
        ----------
        path : str or Path
            File to write; one that stands there is replaced.
        """
        report = {
            "kind": self.kind,
            "date": date.today().isoformat(),
            "command": shlex.join(
                ["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *map(_file_name, sys.argv[1:])]
            ),
            "seconds": round(perf_counter() - self.started),
            "machine": self.machine,
            "figures": [asdict(figure) | {"verdict": figure.verdict} for figure in self.figures],
            "checks": [asdict(check) | {"holds": check.holds} for check in self.checks],
            "tables": self.tables,
        }
        with new_file(path) as partial:
            partial.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def show(value: object) -> str:
    """Lay out a value for people: three to four digits, thousands with commas."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def describe_machine(device: str = "cpu") -> dict:
    """Describe what the figures were measured on.

    Parameters
    ----------
    device : str
        `"cpu"` or a CUDA device.

    Returns
    -------
    dict
        `name` (short), processor, its cores and instruction sets, memory, GPU, and versions of the libraries.
    """
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


def time_call(call: Callable[[], object], repeats: int = 3) -> float:
    """Seconds that a call takes: the fastest of some repeats, after one that warms up.

    Parameters
    ----------
    call : callable
        What is timed.
    repeats : int
        Timed calls.

    Returns
    -------
    float
        Seconds.
    """
    return time_in_turn({"call": call}, repeats)["call"]


def time_in_turn(calls: dict[str, Callable[[], object]], rounds: int = 4) -> dict[str, float]:
    """Time calls that are to be compared one after another in each round, so that a busy minute meets them all.

    Parameters
    ----------
    calls : dict of str to callable
        What is timed, by name.
    rounds : int
        Timed rounds, after one that warms up.

    Returns
    -------
    dict of str to float
        Seconds of the fastest call of each.
    """
    best = dict.fromkeys(calls, float("inf"))
    for number in range(rounds + 1):
        for name, call in calls.items():
            started = perf_counter()
            call()
            if number:
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
