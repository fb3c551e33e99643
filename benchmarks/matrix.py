"""Run the tests on the lowest and the newest versions that `pyproject.toml` allows, on every Python.

    pip install uv
    python -m benchmarks.matrix                    # or: make test-matrix

For the lowest versions on the oldest Python, and the newest ones on each, uv makes an environment with the extras
`train`, `analysis` and (newest) `export`, and the quick tests run there, but for those of `LEFT_OUT`. (Newer Pythons
have no builds of the oldest numpy and its like.) Tests that need TensorFlow or the reference data are skipped, and
counted. Writes JSON into `results/reliability/`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from benchmarks.figures import RESULTS, Results, describe_machine
from benchmarks.peak_memory import ROOT

OUTPUT = RESULTS / "reliability" / "matrix.json"
COMBINATIONS = ("3.10-lowest", "3.10-newest", "3.11-newest", "3.12-newest", "3.13-newest")
ENDS = {"lowest": "lowest-direct", "newest": "highest"}
TOOLS = ("hypothesis>=6.100", "pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.5")
EXTRAS = {"lowest": "train,analysis", "newest": "train,analysis,export"}
LEFT_OUT = {  # the reason why; all other tests run, but for those that are marked as slow
    "tests/analysis/test_attribution.py": "compares with captum and tangermeme, which users do not install",
    "tests/benchmarks": "of the measurements, which run on the versions of constraints.txt",
    "tests/notebooks": "of the notebooks, whose environment is Jupyter's",
    "tests/space": "of the page, whose environment is Gradio's, and a browser's",
    "tests/test_distribution.py": "builds the wheel, whatever the versions",
    "tests/test_versions.py": "makes an environment of its own",
}
LEFT_OUT_OF_LOWEST = {
    "tests/analysis/test_export.py": "the extra `export` asks for a newer torch; newest versions only"
}
SHOWN = ("torch", "transformers", "datasets", "accelerate", "huggingface-hub", "numpy", "pyarrow", "pandas")


def versions_in(python: Path) -> dict[str, str]:
    """Versions of the packages that matter in an environment."""
    code = "from importlib.metadata import version; print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    done = subprocess.run(
        [python, "-c", f"import json, sys; {code}", *SHOWN], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def count_tests(told: str, exit_code: int) -> dict[str, int]:
    """Count tests by what became of them.

    Parameters
    ----------
    told : str
        What pytest says.
    exit_code : int
        Its exit code.

    Returns
    -------
    dict of str to int
        `passed`, `failed` (errors too, and at least 1 where pytest did not end well) and `skipped`.
    """
    last = told.strip().splitlines()[-1] if told.strip() else ""
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|error|skipped)", last)}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    if exit_code and not failed:
        failed = 1  # an internal error, an interruption, or nothing to run
    return {"passed": counts.get("passed", 0), "failed": failed, "skipped": counts.get("skipped", 0)}


def run_tests(python: Path, tests: list[str], left_out: Iterable[str]) -> tuple[dict[str, int], str]:
    """Run the tests of an environment; their counts, with the last lines of what pytest says."""
    names = ("PYTHONPATH", "VIRTUAL_ENV", "CI", "MACARON_SHARED")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = [python, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-m", "not slow", "-n", "2",
               "--dist", "loadfile", *tests, *(f"--ignore={path}" for path in left_out)]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    return count_tests(done.stdout, done.returncode), done.stdout[-4000:] + done.stderr[-1000:]


def run(results: Results, combinations: list[str], tests: list[str], folder: Path, output: Path) -> None:
    """Test each combination.

    Parameters
    ----------
    results : Results
        Gets a row for each.
    combinations : list of str
        Of a Python and an end of the ranges, such as `"3.12-newest"`.
    tests : list of str
        Files and folders.
    folder : Path
        For the environments, each removed when it is done.
    output : Path
        JSON file, written after each combination.
    """
    for path, reason in (LEFT_OUT | LEFT_OUT_OF_LOWEST).items():
        results.row("left_out", tests=path, reason=reason)
    for combination in combinations:
        python, end = combination.split("-")
        place = folder / combination
        began = time.monotonic()
        subprocess.run(["uv", "venv", "--quiet", "--no-python-downloads", "--python", python, place], check=True)
        there = place / "bin/python"
        subprocess.run(
            ["uv", "pip", "install", "--quiet", "--python", there, "--resolution", ENDS[end],
             "--editable", f"{ROOT}[{EXTRAS[end]}]", *TOOLS], check=True,
        )  # fmt: skip
        counts, told = run_tests(there, tests, LEFT_OUT | (LEFT_OUT_OF_LOWEST if end == "lowest" else {}))
        results.row("matrix", python=python, end=end, date=date.today().isoformat(), **counts,
                    seconds=round(time.monotonic() - began), **versions_in(there))  # fmt: skip
        failed = counts["failed"] or not counts["passed"]
        results.check(f"Python {python}, {end}: tests that failed", float(failed), 0.0)
        results.save(output)
        if failed:
            print(told, flush=True)
        shutil.rmtree(place)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--combinations", nargs="+", default=list(COMBINATIONS), help="of a Python and an end")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="files and folders")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write")
    args = parser.parse_args(argv)
    if shutil.which("uv") is None:
        parser.error("uv is not installed: pip install uv")
    results = Results("matrix", describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        run(results, args.combinations, args.tests, Path(folder), args.output)
    print(f"\nwritten to {args.output}")
    return results.exit_code


if __name__ == "__main__":
    sys.exit(main())
