"""Check and time training and inference on a GPU.

    python -m benchmarks.gpu [--only PART ...] [options]

The parts:

check      outputs and gradients against float64 on the CPU, and the repository's checkpoint against float32
train      training steps without the Trainer: plain and merged projections, eager and compiled, both attentions
inference  the same with bf16 weights, for all outputs and for the expression alone
profile    a training step by part of the model and by kernel
trainer    the Trainer with configs/one_gpu.yaml

Rates are also reported as a share of the measured rate of a bf16 matrix product. `--device cpu --size tiny` runs
everything without a GPU in a few minutes.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
import yaml
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from benchmarks.figures import ROOT, Results, describe_machine, make_parser, result_path, time_in_turn
from benchmarks.gpu_check import check_checkpoint, check_models
from benchmarks.models import SIZES, make_model, random_batch
from benchmarks.sweep import QUIET, build_trainer
from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.sources import open_source
from modeling_macaron.training.callbacks import clip_gradients

RECIPE = ROOT / "configs" / "one_gpu.yaml"
LABELS = {"separate": "plain", "merged": "merged"}
TASKS = {"train": "training", "whole": "inference, all outputs", "expression": "inference, expression only"}
_PROFILED_STEPS = 3
_KERNELS = 16


@dataclass(frozen=True)
class Scale:
    """How much the benchmark computes for a size of the model."""

    batch_size: int
    steps: int  # timed together
    check_layers: int  # blocks of the model compared with float64
    matrix: int  # rows of the square matrices multiplied for the peak
    trainer_steps: tuple[int, int]  # before and in the timed window
    rows: int  # for training


SCALES = {"paper": Scale(512, 10, 2, 8192, (20, 60), 45_000), "tiny": Scale(4, 2, 1, 64, (1, 3), 100)}


@dataclass
class Run:
    """One run of the benchmark."""

    results: Results
    device: torch.device
    size: str
    backend: str  # of torch.compile

    @property
    def scale(self) -> Scale:
        """Settings that depend on the size."""
        return SCALES[self.size]

    @cached_property
    def peak(self) -> float:
        """Rate of a random bf16 matrix product in TFLOP/s."""
        rows = self.scale.matrix
        left, right = (torch.randn(rows, rows, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        product = torch.empty_like(left)
        rate = 2 * rows**3 / self.seconds_per_step(lambda: torch.matmul(left, right, out=product)) / 1e12
        self.results.figure(f"peak: bf16 matrix product of {rows} x {rows}", rate, "TFLOP/s")
        return rate

    def utilization(self, projections: str, task: str, sequences_per_s: float) -> float:
        """Model-FLOP utilization: the arithmetic of the form as a share of the peak."""
        return count_flops(self.size, projections, task) * sequences_per_s / (self.peak * 1e12)

    def seconds_per_step(self, step: Callable[[], object]) -> float:
        """Return the seconds of a step when several run without synchronization."""

        def window() -> None:
            for _ in range(self.scale.steps):
                step()
            synchronize(self.device)

        return time_in_turn({"window": window}, rounds=3)["window"] / self.scale.steps


@cache
def count_flops(size: str, projections: str, task: str) -> float:
    """Count the operations of matrix products and convolutions for one sequence. A multiply-add counts as two.

    A backward pass has twice the operations of the forward pass.
    """
    model = make_model(size, "eager", "meta", attention_projections=projections).eval()
    ids = torch.zeros(1, model.config.sequence_length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids, output_nucleotide_logits=task != "expression")
    return counter.get_total_flops() * (3 if task == "train" else 1)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release(device: torch.device) -> None:
    """Discard compiled code and free memory before the next form."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


class TrainingStep:
    """One optimizer step with the recipe's settings: bf16 autocast, clipping and fused Adam on float32 weights."""

    def __init__(self, model: MacaronForExpressionPrediction, backend: str | None = None):
        recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
        self.device = model.device
        self.parameters = list(model.parameters())
        self.limits = recipe["clip_grad_value"], recipe["clip_tensor_norm"]
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=recipe["learning_rate"],
            betas=(recipe["adam_beta1"], recipe["adam_beta2"]),
            eps=recipe["adam_epsilon"],
            fused=True,
        )
        self.call = compile_for(model.train(), backend)

    def __call__(self, batch: dict[str, torch.Tensor]) -> None:
        """Start the step."""
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.call(**batch).loss
        loss.backward()
        self.update()
        self.optimizer.zero_grad(set_to_none=True)

    def update(self) -> None:
        """Clip the gradients and update the weights."""
        clip_gradients(self.parameters, *self.limits)
        self.optimizer.step()


def compile_for(module: nn.Module, backend: str | None) -> Callable:
    """Compile a module, if there is a backend."""
    return module if backend is None else torch.compile(module, backend=backend, dynamic=False)


def make_step(run: Run, task: str, projections: str, attention: str, is_compiled: bool) -> Callable[[], None]:
    """Make a function that starts one step of training or inference."""
    model = make_model(run.size, attention, run.device, attention_projections=projections)
    batches = cycle([random_batch(model, run.scale.batch_size, seed) for seed in range(4)])
    backend = run.backend if is_compiled else None
    if task == "train":
        training_step = TrainingStep(model, backend)
        return lambda: training_step(next(batches))
    call = compile_for(model.eval().to(torch.bfloat16), backend)

    @torch.inference_mode()
    def infer() -> None:
        call(next(batches)["input_ids"], output_nucleotide_logits=task == "whole")

    return infer


def check_numbers(run: Run) -> None:
    """Check the device against the CPU."""
    check_models(run.results, run.device, run.size, run.backend, run.scale.check_layers)
    check_checkpoint(run.results, run.device)


def measure_training(run: Run) -> None:
    """Time training steps without the Trainer."""
    _measure_task(run, "train", "train")


def measure_inference(run: Run) -> None:
    """Time inference with bf16 weights, for all outputs and for the expression alone."""
    for task in ("whole", "expression"):
        _measure_task(run, "inference", task)


def _measure_task(run: Run, table: str, task: str) -> None:
    """Time both kinds of attention, then compile the faster one."""
    for projections, label in LABELS.items():
        rows = [measure(run, table, task, projections, attention, False) for attention in ("eager", "sdpa")]
        faster = max(rows, key=lambda row: row["sequences_per_s"] or 0)["attention"]
        rows.append(measure(run, table, task, projections, faster, True))
        best = max(rows, key=lambda row: row["sequences_per_s"] or 0)
        note = f"{best['attention']} attention, {'compiled' if best['compiled'] else 'not compiled'}"
        name = f"{TASKS[task]}: {label}, batch {best['batch_size']}"
        run.results.figure(name, best["sequences_per_s"], "sequences/s", shown=task != "whole", note=note)
        run.results.figure(f"{name}, share of the peak", best["mfu"], "MFU")


def measure(run: Run, table: str, task: str, projections: str, attention: str, is_compiled: bool) -> dict:
    """Time one form and add its row. An error, such as lack of memory or of a kernel, becomes its note."""
    batch_size, note = run.scale.batch_size, ""
    measured = dict.fromkeys(("sequences_per_s", "ms", "first_s", "memory_gb", "mfu"))
    release(run.device)
    try:
        step = make_step(run, task, projections, attention, is_compiled)
        started = perf_counter()
        step()
        synchronize(run.device)
        measured["first_s"] = perf_counter() - started  # compiles
        seconds = run.seconds_per_step(step)
        rate = batch_size / seconds
        if run.device.type == "cuda":
            measured["memory_gb"] = torch.cuda.max_memory_allocated(run.device) / 1e9
        measured |= {"sequences_per_s": rate, "ms": 1e3 * seconds, "mfu": run.utilization(projections, task, rate)}
    except RuntimeError as error:
        note = str(error).strip().partition("\n")[0][:200]
    row = {"task": task, "projections": projections, "attention": attention, "compiled": is_compiled}
    row |= {"batch_size": batch_size, **measured, "note": note}
    run.results.row(table, **row)
    return row


def profile_training(run: Run) -> None:
    """Break a training step down by part of the model (table `groups`) and by kernel (table `kernels`)."""
    for projections in LABELS:
        for group, ms in time_groups(run, projections).items():
            run.results.row("groups", projections=projections, group=group, ms=ms)
        for kernel in profile_kernels(run, projections):
            run.results.row("kernels", projections=projections, **kernel)


def time_groups(run: Run, projections: str) -> dict[str, float]:
    """Milliseconds of a compiled training step, and of each part of the blocks on its own, forward and backward.

    "other" is the rest: embeddings, heads, losses and residual additions, minus savings by fusion.
    """
    release(run.device)
    whole = run.seconds_per_step(make_step(run, "train", projections, "eager", True))
    model = make_model(run.size, "eager", run.device, attention_projections=projections)
    config, layer = model.config, model.macaron.layers[0]
    training_step = TrainingStep(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    seconds = {"optimizer": run.seconds_per_step(training_step.update)}
    positions = config.sequence_length + config.num_pooled_positions
    states = torch.randn(run.scale.batch_size, positions, config.hidden_size, device=run.device, requires_grad=True)
    for name, module, times in (
        ("attention", layer.self_attn, 1),
        ("feed-forward", layer.feed_forward1, 2),
        ("convolution", layer.convolution, 1),
        ("block norm", layer.layer_norm, 1),
    ):
        once = _forward_and_backward(run, module, states)
        seconds[name] = times * config.num_hidden_layers * run.seconds_per_step(once)
    seconds |= {"other": whole - sum(seconds.values()), "whole step": whole}
    return {name: 1e3 * own for name, own in seconds.items()}


def _forward_and_backward(run: Run, module: nn.Module, states: torch.Tensor) -> Callable[[], None]:
    """Make a function that runs a part of the block as a training step does."""
    call = compile_for(module, run.backend)
    inputs = (states, states) if module.__class__.__name__.endswith("Attention") else (states,)

    def once() -> None:
        module.zero_grad(set_to_none=True)
        states.grad = None
        with torch.autocast(run.device.type, torch.bfloat16):
            outputs = call(*inputs)
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        outputs.backward(torch.ones_like(outputs))

    return once


def profile_kernels(run: Run, projections: str) -> list[dict]:
    """List the kernels (on a CPU: operators) of a training step that take longest."""
    on_gpu = run.device.type == "cuda"
    release(run.device)
    step = make_step(run, "train", projections, "eager", True)
    for _ in range(3):
        step()
    synchronize(run.device)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        for _ in range(_PROFILED_STEPS):
            step()
        synchronize(run.device)
    events = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in profiler.key_averages()
        if not on_gpu or (event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation)
    ]
    total = sum(microseconds for microseconds, _, _ in events)
    return [
        {
            "ms": microseconds / 1e3 / _PROFILED_STEPS,
            "share": microseconds / total,
            "launches": count / _PROFILED_STEPS,
            "kernel": name[:120],
        }
        for microseconds, count, name in sorted(events, reverse=True)[:_KERNELS]
    ]


class StepClock(TrainerCallback):
    """Read the clock after the given steps, once the device has finished them."""

    def __init__(self, steps: tuple[int, ...], device: torch.device):
        self.steps, self.device, self.times = steps, device, []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Read the clock."""
        if state.global_step in self.steps:
            synchronize(self.device)
            self.times.append(perf_counter())


def measure_trainer(run: Run) -> None:
    """Time the Trainer with the recipe and prepared data."""
    with TemporaryDirectory() as folder:
        prepare_dataset(open_source("simulate", num_sequences=run.scale.rows, seed=0), Path(folder) / "data")
        for projections, label in LABELS.items():
            rate = run.scale.batch_size / _time_trainer(run, projections, Path(folder))
            name = f"trainer: {label}, batch {run.scale.batch_size}"
            run.results.figure(name, rate, "sequences/s", shown=True)
            run.results.figure(f"{name}, share of the peak", run.utilization(projections, "train", rate), "MFU")


def _time_trainer(run: Run, projections: str, folder: Path) -> float:
    """Return the seconds of a step of `scripts/train.py` with the recipe, without saving."""
    warm_up, timed = run.scale.trainer_steps
    options = yaml.safe_load(RECIPE.read_text(encoding="utf-8")) | SIZES[run.size] | QUIET
    options |= {
        "attention_projections": projections, "dataset": str(folder / "data"), "output_dir": str(folder / projections),
        "global_batch_size": run.scale.batch_size, "max_steps": warm_up + timed,
    }  # fmt: skip
    if run.device.type == "cpu":
        options |= {"use_cpu": True, "torch_compile": False}
        options |= {"dataloader_num_workers": 0, "dataloader_persistent_workers": False}
    else:
        options["torch_compile_backend"] = run.backend
    release(run.device)
    trainer = build_trainer(options, folder / "recipe.yaml")
    clock = StepClock((warm_up, warm_up + timed), run.device)
    trainer.add_callback(clock)
    trainer.train()
    return (clock.times[1] - clock.times[0]) / timed


PARTS: dict[str, Callable[[Run], None]] = {
    "check": check_numbers,
    "train": measure_training,
    "inference": measure_inference,
    "profile": profile_training,
    "trainer": measure_trainer,
}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark and save the results after each part. Returns 1 if an equality fails."""
    parser = make_parser("gpu", __doc__, "of all parts at the paper's size on a GPU, results/MACHINE.json")
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, help="parts to run (default: all)")
    add("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--size", choices=SIZES, default="paper", help="paper, or tiny to try the benchmark (default: paper)")
    add("--compile_backend", default="inductor", help="backend of torch.compile (default: inductor)")
    args = parser.parse_args(argv)
    machine = {**describe_machine(args.device), "size": args.size}
    is_whole = (args.device, args.size, args.only) == ("cuda", "paper", None)
    output = args.output or (result_path(machine) if is_whole else None)
    results = Results("gpu", machine)
    print(f"{machine['name']}, PyTorch {torch.__version__}, size {args.size}", flush=True)
    run = Run(results, torch.device(args.device), args.size, args.compile_backend)
    for part in args.only or PARTS:
        print(part, flush=True)
        PARTS[part](run)
        if output is not None:
            results.save(output)
    return results.finish(output)


if __name__ == "__main__":
    sys.exit(main())
