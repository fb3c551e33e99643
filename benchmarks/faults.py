"""Kill training, preparation and prediction at random points, fill their disk, and compare what comes out.

    python -m benchmarks.faults

Every program runs as its command line, is killed (SIGKILL to all of its processes) again and again and started anew as
its user would, until it ends; its result must be that of an undisturbed run. It is counted where the kills fell. Writes
JSON into `results/reliability/`.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.figures import RESULTS, Results, describe_machine
from benchmarks.killing import kill_when, outcome_of, run_to_the_end, time_undisturbed, written_since
from benchmarks.memory import make_checkpoint, write_promoters

OUTPUT = RESULTS / "reliability" / "faults.json"
STEPS, SAVE_STEPS = 40, 2  # half of the steps end with a checkpoint
TRAINING = [
    *("--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--head_dim", "8"),
    *("--intermediate_size", "16", "--conv_kernel_size", "3", "--num_expression_positions", "4"),
    *("--hidden_dropout", "0.1", "--report_to", "none", "--disable_tqdm", "true", "--per_device_eval_batch_size", "64"),
    *("--global_batch_size", "64", "--max_steps", str(STEPS), "--eval_steps", str(SAVE_STEPS)),
    *("--save_steps", str(SAVE_STEPS), "--logging_steps", str(SAVE_STEPS), "--save_total_limit", "3"),
]
PROMOTERS, ROWS = 400, 60_000
WRITING_SECONDS = 0.01  # less than what a checkpoint, the result or the joining of parts takes
JOINING, UNPREPARED = ".broken.csv.partial-*", ".broken.partial-*"  # what is written before it gets its name


def training_command(dataset: Path, output: Path, processes: int) -> list[str]:
    """Command line of a training that resumes where there is something to resume.

    Parameters
    ----------
    dataset, output : Path
        Folders.
    processes : int
        How many train together.

    Returns
    -------
    list of str
    """
    several = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes), *several),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "scripts/train.py"),
        *("configs/cpu_tiny.yaml", "--dataset", str(dataset), "--output_dir", str(output), *TRAINING),
        *("--resume_from_checkpoint", "auto", "--use_cpu", "true"),
    ]


def difference(first: Path, second: Path) -> float:
    """Compare two files of weights.

    Parameters
    ----------
    first, second : Path
        safetensors files.

    Returns
    -------
    float
        Largest difference; infinite if they do not hold the same tensors.
    """
    one, two = load_file(first), load_file(second)
    if one.keys() != two.keys():
        return float("inf")
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


def kill_training(results: Results, folder: Path, processes: int, kills: int, rng: random.Random) -> None:
    """Kill a training: every other time in the writing of a checkpoint, every tenth time in that of the result.

    The other moments are anywhere in the time that the whole run takes: in the start, a resume, a step.

    Parameters
    ----------
    results : Results
        Gets a row.
    folder : Path
        Of the data, and for the runs.
    processes, kills : int
        How many train together, and how often they are killed.
    rng : random.Random
        Gives the moments.
    """
    dataset, whole, broken = folder / "data", folder / f"whole-{processes}", folder / f"broken-{processes}"
    command, weights = training_command(dataset, broken, processes), "final/model.safetensors"
    times = time_undisturbed(training_command(dataset, whole, processes), lambda: any(whole.glob("checkpoint-*")))
    counts = dict.fromkeys(("kills", "in_a_checkpoint", "in_a_half_one", "in_the_result", "before_any", "ends"), 0)
    error = 0.0
    while counts["kills"] < kills:
        before, began = _TrainingState(broken), time.time()
        ready, longest = before.moments(times.end, began)[counts["kills"] % 10]
        if kill_when(command, ready, rng.uniform(0, longest)):
            counts["kills"] += 1
            before.count(counts, began)
        else:  # it came to its end: the next kills meet a new training
            counts["ends"] += 1
            error = max(error, difference(whole / weights, broken / weights))
            shutil.rmtree(broken)
    run_to_the_end(command)
    error = max(error, difference(whole / weights, broken / weights))
    results.row("training", processes=processes, **counts, difference=error)
    name = f"training on {processes} process{'es' if processes > 1 else ''}, {kills} kills"
    results.check(f"{name}: weights", error, 0.0)
    results.check(f"{name}: none fell into the writing of a checkpoint", float(not counts["in_a_checkpoint"]), 0.0)


class _TrainingState:
    """What an interrupted training has left, by which what its next run writes is known."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.half, self.results = set(self._half()), set(run.glob(".final.*"))

    def _half(self) -> list[Path]:
        """Checkpoints that are not finished; the Trainer's state is written last."""
        return [path for path in self.run.glob("checkpoint-*") if not (path / "trainer_state.json").is_file()]

    def moments(self, seconds: float, began: float) -> list[tuple[Callable[[], bool], float]]:
        """When to kill ten runs: whether the time has come, and the most seconds from then on."""
        writing = (lambda: written_since(self._half(), began), WRITING_SECONDS)
        result = (lambda: bool(set(self.run.glob(".final.*")) - self.results), WRITING_SECONDS)
        anywhere = (lambda: True, seconds)
        return [writing, anywhere] * 4 + [writing, result]

    def count(self, counts: dict[str, int], began: float) -> None:
        """Count where a kill fell."""
        half = {path for path in self._half() if written_since([path], began)}
        counts["in_a_checkpoint"] += bool(half)
        counts["in_a_half_one"] += bool(half & self.half)
        counts["in_the_result"] += bool(set(self.run.glob(".final.*")) - self.results)
        counts["before_any"] += not written_since(self.run.glob("checkpoint-*"), began)


def kill_prediction(results: Results, folder: Path, kills: int, rng: random.Random) -> None:
    """Kill the prediction of a file: two of four times after a new part, once in the joining of parts, once anywhere.

    Parameters
    ----------
    results : Results
        Gets a row.
    folder : Path
        Of the model and the rows, and for the outputs.
    kills : int
        How often it is killed.
    rng : random.Random
        Gives the moments.
    """
    whole, broken, parts = folder / "whole.csv", folder / "broken.csv", folder / "broken.csv.parts"
    options = [sys.executable, "scripts/predict.py", str(folder / "model"), str(folder / "rows.parquet")]
    times = time_undisturbed(
        [*options, str(whole), "--batch_size", "64"], lambda: any(folder.glob("whole.csv.parts/*.arrow"))
    )
    command = [*options, str(broken), "--batch_size", "64", "--resume"]
    counts = dict.fromkeys(("kills", "at_work", "in_the_joining", "ends", "half_outputs"), 0)
    while counts["kills"] < kills:
        old = {*parts.glob("*.arrow"), *folder.glob(JOINING)}

        def joins(old: set[Path] = old) -> bool:
            return bool(set(folder.glob(JOINING)) - old)

        def works(old: set[Path] = old) -> bool:
            return joins(old) or bool(set(parts.glob("*.arrow")) - old)

        at_work = (works, times.end - times.work)
        moments = [at_work, (joins, WRITING_SECONDS), at_work, (lambda: True, times.end)]
        ready, longest = moments[counts["kills"] % 4]
        if kill_when(command, ready, rng.uniform(0, longest)):
            counts["kills"] += 1
            counts["at_work"] += works() or broken.exists()
            counts["in_the_joining"] += joins()
        if broken.exists():  # it came to its end, perhaps just before the kill
            counts["ends"] += 1
            counts["half_outputs"] += whole.read_bytes() != broken.read_bytes()
            broken.unlink()
            shutil.rmtree(parts, ignore_errors=True)
    run_to_the_end(command)
    same = whole.read_bytes() == broken.read_bytes() and not parts.exists()
    _report(results, "prediction", counts, same, [path.name for path in folder.glob(JOINING)])


def _report(results: Results, program: str, counts: dict[str, int], same: bool, left: list[str]) -> None:
    """Write down what became of a program that writes one output."""
    name = f"{program}, {counts['kills']} kills"
    results.row(program, **counts, left_behind=len(left), same_bytes=same, rows=ROWS)
    results.check(f"{name}: bytes of the output", float(not same), 0.0)
    results.check(f"{name}: half outputs, and files left behind", float(counts["half_outputs"] + len(left)), 0.0)
    results.check(f"{name}: none fell into its work", float(not counts["at_work"]), 0.0)


def is_same(first: Path, second: Path) -> bool:
    """Compare the rows of two prepared data sets.

    Parameters
    ----------
    first, second : Path
        Folders.

    Returns
    -------
    bool
        Whether they are the same, byte for byte, and there are any.
    """
    names = sorted(path.relative_to(first) for path in first.rglob("*.arrow"))
    others = sorted(path.relative_to(second) for path in second.rglob("*.arrow"))
    equal = names == others and all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    return bool(names) and equal


def kill_preparation(results: Results, folder: Path, kills: int, rng: random.Random) -> None:
    """Kill the preparation of a table: three of four times at its work, once anywhere.

    Parameters
    ----------
    results : Results
        Gets a row.
    folder : Path
        Of the table, and for the data sets.
    kills : int
        How often it is killed.
    rng : random.Random
        Gives the moments.
    """
    whole, broken = folder / "whole", folder / "broken"
    options = [sys.executable, "scripts/prepare_data.py", "--source", str(folder / "rows.tsv"), "--strand_length", "80"]
    times = time_undisturbed([*options, "--output", str(whole)], lambda: any(folder.glob(".whole.partial-*")))
    command = [*options, "--output", str(broken)]
    counts = dict.fromkeys(("kills", "at_work", "ends", "half_outputs"), 0)
    while counts["kills"] < kills:
        old = set(folder.glob(UNPREPARED))

        def works(old: set[Path] = old) -> bool:
            return bool(set(folder.glob(UNPREPARED)) - old)

        anywhere = counts["kills"] % 4 == 3
        ready, longest = (lambda: True, times.end) if anywhere else (works, times.end - times.work)
        if kill_when(command, ready, rng.uniform(0, longest)):
            counts["kills"] += 1
            counts["at_work"] += works() or broken.exists()
        if broken.exists():  # it came to its end, perhaps just before the kill
            counts["ends"] += 1
            counts["half_outputs"] += not is_same(whole, broken)
            shutil.rmtree(broken)
    run_to_the_end(command)
    _report(results, "preparation", counts, is_same(whole, broken), [path.name for path in folder.glob(".broken.*")])


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a disk that is soon full; needs the rights of the superuser, and Linux.

    Parameters
    ----------
    folder : Path
        Where; it is made.
    size : int
        Bytes.

    Yields
    ------
    Path
        The folder.

    Raises
    ------
    OSError
        If nothing can be mounted.
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise OSError(mounted.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def can_mount(folder: Path) -> bool:
    """Tell whether small disks can be mounted here.

    Parameters
    ----------
    folder : Path
        Where to try.

    Returns
    -------
    bool
    """
    try:
        with small_disk(folder / "disk-trial", 1 << 20):
            return True
    except OSError:
        return False


def fill_disk(results: Results, folder: Path) -> None:
    """Run each program where its output does not fit: one clear line, and nothing half.

    Parameters
    ----------
    results : Results
        Gets a row for each.
    folder : Path
        Of the inputs, and for the disks.
    """
    commands = {
        "predict": ["scripts/predict.py", str(folder / "model"), str(folder / "rows.parquet"), "{}/out.csv"],
        "mutagenesis": ["scripts/mutagenesis.py", str(folder / "model"), str(folder / "rows.parquet"), "{}/out.csv"],
        "prepare": ["scripts/prepare_data.py", "--source", str(folder / "rows.tsv"), "--output", "{}/out"],
        "simulate": ["scripts/simulate.py", "{}/out.tsv", "--num_sequences", "20000"],
    }
    for name, command in commands.items():
        with small_disk(folder / f"disk-{name}", 1 << 20) as disk:
            exit_code, output = outcome_of([sys.executable, *(part.format(disk) for part in command)])
            told = output.strip().splitlines()[-1]
            left = [path.name for path in disk.iterdir() if path.name in ("out", "out.csv", "out.tsv")]
        clear = exit_code == 1 and "space" in told.lower() and "Traceback" not in output
        results.row(
            "disk_full", program=name, exit_code=exit_code, outputs=len(left),
            told=told.replace(str(folder), "..."),
        )  # fmt: skip
        results.check(f"{name} on a full disk: a clear line and no output", float(not clear or bool(left)), 0.0)
    fill_disk_in_training(results, folder)


def fill_disk_in_training(results: Results, folder: Path) -> None:
    """Train where a few checkpoints fit: one clear line, and those before the full disk stay whole.

    Parameters
    ----------
    results, folder
        See `fill_disk`.
    """
    with small_disk(folder / "disk-train", 600_000) as disk:
        exit_code, output = outcome_of(training_command(folder / "data", disk / "run", 1))
        told = next((line for line in output.splitlines() if line.startswith("error:")), "")
        checkpoints = sorted((disk / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        intact = 0
        for path in checkpoints:
            if (path / "trainer_state.json").is_file():
                load_file(path / "model.safetensors")
                intact += 1
        final = (disk / "run/final").exists()
        clear = exit_code != 0 and "space" in told
        results.row("disk_full", program="train", exit_code=exit_code, outputs=int(final),
                    told=told.replace(str(folder), "..."))  # fmt: skip
        results.figure("train on a full disk: checkpoints that are intact", intact, "checkpoints")
        results.check("train on a full disk: a clear line, an earlier checkpoint, no result",
                      float(not clear or final or not intact), 0.0)  # fmt: skip


def run(results: Results, kills: int, parts: list[str], folder: Path, seed: int) -> None:
    """Make the inputs and let everything go wrong.

    Parameters
    ----------
    results : Results
        Gets the counts.
    kills : int
        Of each program.
    parts : list of str
        Of `PARTS`.
    folder : Path
        For inputs and outputs.
    seed : int
        Of the moments.
    """
    rng = random.Random(seed)
    make_checkpoint(folder / "model")
    write_promoters(folder / "rows.parquet", ROWS)
    script = [sys.executable, "scripts/simulate.py"]
    run_to_the_end([*script, str(folder / "rows.tsv"), "--num_sequences", "20000"])
    run_to_the_end([*script, str(folder / "few.tsv"), "--num_sequences", str(PROMOTERS)])
    prepare = [sys.executable, "scripts/prepare_data.py", "--strand_length", "80"]
    run_to_the_end([*prepare, "--source", str(folder / "few.tsv"), "--output", str(folder / "data")])
    if "training" in parts:
        kill_training(results, folder, 1, kills, rng)
        kill_training(results, folder, 2, kills, rng)
    if "prediction" in parts:
        kill_prediction(results, folder, kills, rng)
    if "preparation" in parts:
        kill_preparation(results, folder, kills, rng)
    if "disk" in parts and can_mount(folder):
        fill_disk(results, folder)
    elif "disk" in parts:
        print("  full disks are left out: a small disk cannot be mounted here (that takes root, and Linux)", flush=True)


PARTS = ("training", "prediction", "preparation", "disk")


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; default: those of the process.

    Returns
    -------
    int
        Exit code: 1 where a check fails.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="of each program (%(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="`disk` needs root and Linux")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    results = Results("faults", describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        run(results, args.kills, args.parts, Path(folder), args.seed)
    results.save(args.output)
    print(f"\nwritten to {args.output}")
    return results.exit_code


if __name__ == "__main__":
    sys.exit(main())
