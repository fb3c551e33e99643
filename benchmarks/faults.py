"""Kill training, preparation and prediction at random points, fill their disk, and compare what comes out.

    python -m benchmarks.faults

Every program runs as its command line, is killed with SIGKILL again and again and started anew as its user would, until
it ends; its result must be that of an undisturbed run. Writes JSON into `results/reliability/`.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
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
from benchmarks.memory import make_checkpoint, write_promoters
from benchmarks.peak_memory import ROOT

OUTPUT = RESULTS / "reliability" / "faults.json"
STEPS, SAVE_STEPS = 40, 2  # half of the steps end with a checkpoint, so that many kills fall into its writing
TRAINING = [
    *("--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--head_dim", "8"),
    *("--intermediate_size", "16", "--conv_kernel_size", "3", "--num_expression_positions", "4"),
    *("--hidden_dropout", "0.1", "--report_to", "none", "--disable_tqdm", "true", "--per_device_eval_batch_size", "64"),
    *("--global_batch_size", "64", "--max_steps", str(STEPS), "--eval_steps", str(SAVE_STEPS)),
    *("--save_steps", str(SAVE_STEPS), "--logging_steps", str(SAVE_STEPS), "--save_total_limit", "3"),
]
PROMOTERS, ROWS = 400, 60_000
PATIENCE = 300.0  # seconds without an end


def start(command: list[str]) -> subprocess.Popen:
    """Start a program in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


def run_to_the_end(command: list[str]) -> str:
    """Run a program and give what it says; it must end well."""
    process = start(command)
    output, _ = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {output[-2000:]}")
    return output


def kill_when(command: list[str], ready: Callable[[], bool], delay: float) -> bool:
    """Start a program, wait until `ready` and `delay` seconds more, and kill it; False if it had ended before."""
    process = start(command)
    began = time.monotonic()
    while process.poll() is None and not ready():
        if time.monotonic() - began > PATIENCE:
            raise TimeoutError(f"{' '.join(command)} did not begin")
        time.sleep(0.002)
    time.sleep(delay)
    killed = process.poll() is None
    if killed:
        os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    if not killed and process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {output[-2000:]}")
    return killed


def training_command(dataset: Path, output: Path, processes: int) -> list[str]:
    """Command line of a training that resumes where there is something to resume."""
    several = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes), *several),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "scripts/train.py"),
        *("configs/cpu_tiny.yaml", "--dataset", str(dataset), "--output_dir", str(output), *TRAINING),
        *("--resume_from_checkpoint", "auto", "--use_cpu", "true"),
    ]


def difference(first: Path, second: Path) -> float:
    """Largest difference between two files of weights; infinite if they do not hold the same tensors."""
    one, two = load_file(first), load_file(second)
    if one.keys() != two.keys():
        return float("inf")
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


def kill_training(results: Results, folder: Path, processes: int, kills: int, rng: random.Random) -> None:
    """Kill a training; one kill falls at random after a checkpoint has begun to appear, the next into its writing."""
    dataset, whole, broken = folder / "data", folder / f"whole-{processes}", folder / f"broken-{processes}"
    run_to_the_end(training_command(dataset, whole, processes))
    done, restarts, in_writing = 0, 0, 0
    while done < kills:
        before = set(broken.glob("checkpoint-*")) | set(broken.glob(".*")) if broken.is_dir() else set()

        def writing(before: set[Path] = before) -> bool:
            return broken.is_dir() and bool((set(broken.glob("checkpoint-*")) | set(broken.glob(".*"))) - before)

        delay = rng.uniform(0, 0.03) if done % 2 else rng.uniform(0, 1.0)
        restarts += 1
        if kill_when(training_command(dataset, broken, processes), writing, delay):
            done += 1
            in_writing += any(not (path / "trainer_state.json").is_file() for path in broken.glob("checkpoint-*"))
        else:
            shutil.rmtree(broken)  # it came to its end: the next kills meet a new training
    run_to_the_end(training_command(dataset, broken, processes))
    error = difference(whole / "final/model.safetensors", broken / "final/model.safetensors")
    results.row(
        "training", processes=processes, kills=done, in_a_checkpoint=in_writing, starts=restarts + 1, difference=error
    )
    results.check(f"training on {processes} processes, {done} kills: weights", error, 0.0)


def kill_prediction(results: Results, folder: Path, kills: int, rng: random.Random) -> None:
    """Kill a prediction of a file."""
    whole, broken = folder / "whole.csv", folder / "broken.csv"
    options = [sys.executable, "scripts/predict.py", str(folder / "model"), str(folder / "rows.parquet")]
    began = time.monotonic()
    run_to_the_end([*options, str(whole), "--batch_size", "64"])
    seconds = time.monotonic() - began
    command, parts = [*options, str(broken), "--batch_size", "64", "--resume"], Path(f"{broken}.parts")
    done, halves = 0, 0
    while done < kills:
        done += kill_when(command, parts.is_dir, rng.uniform(0, seconds / 6))
        if broken.exists():  # it came to its end, perhaps just before the kill
            halves += whole.read_bytes() != broken.read_bytes()
            broken.unlink()
            shutil.rmtree(parts, ignore_errors=True)
    if not broken.exists():
        run_to_the_end(command)
    same = whole.read_bytes() == broken.read_bytes() and not parts.exists()
    results.row("prediction", kills=done, half_outputs=halves, rows=ROWS)
    results.check(f"prediction, {done} kills: bytes of the output", float(not same), 0.0)
    results.check(f"prediction, {done} kills: outputs before the end", float(halves), 0.0)


def is_same(folder: Path) -> bool:
    """Whether the rows that were prepared twice are the same, byte for byte."""
    files = sorted(path.relative_to(folder / "whole") for path in (folder / "whole").rglob("*.arrow"))
    other = sorted(path.relative_to(folder / "broken") for path in (folder / "broken").rglob("*.arrow"))
    equal = all((folder / "whole" / path).read_bytes() == (folder / "broken" / path).read_bytes() for path in files)
    return bool(files) and files == other and equal


def kill_preparation(results: Results, folder: Path, kills: int, rng: random.Random) -> None:
    """Kill the preparation of a table."""
    command = [
        *(sys.executable, "scripts/prepare_data.py", "--source", str(folder / "rows.tsv"), "--strand_length", "80"),
        *("--output", str(folder / "broken")),
    ]
    began = time.monotonic()
    run_to_the_end([*command[:-1], str(folder / "whole")])
    seconds = time.monotonic() - began
    done, halves = 0, 0
    while done < kills:
        done += kill_when(command, lambda: True, rng.uniform(0.3, 1.0) * seconds)
        if (folder / "broken").exists():  # it came to its end, perhaps just before the kill
            halves += not is_same(folder)
            shutil.rmtree(folder / "broken")
    run_to_the_end(command)
    left = [path.name for path in folder.iterdir() if path.name.startswith(".broken")]
    results.row("preparation", kills=done, half_outputs=halves, left_behind=len(left))
    results.check(f"preparation, {done} kills: bytes of the data", float(not is_same(folder)), 0.0)
    results.check(f"preparation, {done} kills: half outputs, and files left behind", float(halves + len(left)), 0.0)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a disk of `size` bytes; needs the rights of the superuser, and Linux."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_disk(results: Results, folder: Path) -> None:
    """Run each program where its output does not fit: one clear line, and nothing half."""
    commands = {
        "predict": ["scripts/predict.py", str(folder / "model"), str(folder / "rows.parquet"), "{}/out.csv"],
        "mutagenesis": ["scripts/mutagenesis.py", str(folder / "model"), str(folder / "rows.parquet"), "{}/out.csv"],
        "prepare": ["scripts/prepare_data.py", "--source", str(folder / "rows.tsv"), "--output", "{}/out"],
        "simulate": ["scripts/simulate.py", "{}/out.tsv", "--num_sequences", "20000"],
    }
    for name, command in commands.items():
        with small_disk(folder / f"disk-{name}", 1 << 20) as disk:
            process = start([sys.executable, *(part.format(disk) for part in command)])
            output, _ = process.communicate(timeout=PATIENCE)
            told = output.strip().splitlines()[-1]
            left = [path.name for path in disk.iterdir() if path.name in ("out", "out.csv", "out.tsv")]
        clear = process.returncode == 1 and "space" in told.lower() and "Traceback" not in output
        results.row(
            "disk_full", program=name, exit_code=process.returncode, outputs=len(left),
            told=told.replace(str(folder), "..."),
        )  # fmt: skip
        results.check(f"{name} on a full disk: a clear line and no output", float(not clear or bool(left)), 0.0)
    with small_disk(folder / "disk-train", 600_000) as disk:
        process = start(training_command(folder / "data", disk / "run", 1))
        output, _ = process.communicate(timeout=PATIENCE)
        told = next((line for line in output.splitlines() if line.startswith("error:")), "")
        checkpoints = sorted((disk / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        intact = 0
        for path in checkpoints:
            if (path / "trainer_state.json").is_file():
                load_file(path / "model.safetensors")
                intact += 1
        final = (disk / "run/final").exists()
        clear = process.returncode != 0 and "space" in told
        results.row("disk_full", program="train", exit_code=process.returncode, outputs=int(final),
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
    if "disk" in parts:
        fill_disk(results, folder)


PARTS = ("training", "prediction", "preparation", "disk")


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code."""
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
