"""Part of the GPU benchmark that trains in shards (FSDP), through the launch file, and resumes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.faults import difference
from benchmarks.gpu_setup import RECIPE, Run, release
from benchmarks.gpu_workflows import prepare_data
from benchmarks.killing import run_to_the_end
from benchmarks.numerics import losses_of
from benchmarks.peak_memory import ROOT

LAUNCH_FILE = ROOT / "configs" / "accelerate_fsdp.yaml"
LOSS_TOLERANCE = 2e-2  # relative; bf16 weights in shards against bf16 autocast
RESUME_TOLERANCE = 1e-3  # of a weight; kernels add in any order
_ROWS, _STEPS = 4_000, 8
_OPTIONS = {
    "num_hidden_layers": 2, "hidden_dropout": 0.0, "global_batch_size": 256, "max_steps": _STEPS, "logging_steps": 1,
    "eval_strategy": "steps", "eval_steps": _STEPS // 2, "save_strategy": "steps", "save_steps": _STEPS // 2,
    "warmup_steps": 4, "torch_compile": "false", "report_to": "none", "disable_tqdm": "true",
}  # fmt: skip


def check_sharded(run: Run) -> None:
    """Check a training in shards, by one process on this GPU, against one without, and against itself resumed.

    Parameters
    ----------
    run : Run
        Gets the equalities; a figure without a value where the device is none that accelerate shards on.
    """
    if run.device.type != "cuda":
        run.results.figure("sharded: training", None, "", note="accelerate shards on accelerators only")
        return
    release(run.device)
    with TemporaryDirectory() as folder:
        data = prepare_data(Path(folder), _ROWS)
        plain, sharded, resumed = (Path(folder) / name for name in ("plain", "sharded", "resumed"))
        _train(data, plain, [])
        launcher = ["--config_file", str(LAUNCH_FILE)]
        _train(data, sharded, launcher)
        error = float(np.abs(losses_of(sharded) / losses_of(plain) - 1).max())
        run.results.check("sharded: losses against an unsharded training", error, LOSS_TOLERANCE)
        last = f"checkpoint-{_STEPS}"
        shutil.copytree(sharded, resumed, ignore=shutil.ignore_patterns(last, "final"))
        _train(data, resumed, launcher, "--resume_from_checkpoint", "auto")
        weights = [folder / last / "model.safetensors" for folder in (sharded, resumed)]
        run.results.check("sharded: weights after a resume", difference(*weights), RESUME_TOLERANCE)


def _train(data: Path, output: Path, launcher: list[str], *more: str) -> None:
    """Start `accelerate launch scripts/train.py` with one process and wait for its end."""
    options = [word for name, value in _OPTIONS.items() for word in (f"--{name}", str(value))]
    run_to_the_end([
        *(sys.executable, "-m", "accelerate.commands.launch", *launcher, "--num_processes", "1"),
        *("--main_process_port", "0", "scripts/train.py", str(RECIPE), "--dataset", str(data)),
        *("--output_dir", str(output), *options, *more),
    ])  # fmt: skip
