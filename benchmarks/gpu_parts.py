"""Parts of the GPU benchmark: numbers against the CPU, rates, kernels, variants of the step, and the Trainer."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback, set_seed

from benchmarks.checkpoint import CHECKPOINT
from benchmarks.gpu_setup import (
    LABELS,
    RECIPE,
    TASKS,
    Run,
    TrainingStep,
    make_model,
    peak_memory_gb,
    random_batch,
    release,
    seconds_per_step,
    synchronize,
)
from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.analysis.attribution import integrated_gradients
from modeling_macaron.predictor import Predictor

FLOAT32_TOLERANCE = 5e-5  # TF32, which must be off, errs by about 3e-4
AUTOCAST_TOLERANCE = 3e-2
CHECKPOINT_TOLERANCE = 1e-4  # standard deviations of expression
HALF_TOLERANCE = 0.1
_PROFILED_STEPS = 3
_KERNELS = 16


def relative_error(values: torch.Tensor, reference: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference; huge where a value is not finite."""
    reference = reference.double().cpu()
    error = (torch.linalg.vector_norm(values.double().cpu() - reference) / torch.linalg.vector_norm(reference)).item()
    return error if error < sys.float_info.max else sys.float_info.max


def gradient_error(gradients: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """Largest error of a tensor over its norm plus a thousandth of the norm of all: some gradients are zero."""
    norm = torch.linalg.vector_norm
    total = norm(torch.stack([norm(own.double().cpu()) for own in reference.values()]))
    errors = [
        norm(gradients[name].double().cpu() - own.double().cpu()) / (norm(own.double().cpu()) + 1e-3 * total)
        for name, own in reference.items()
    ]
    return torch.stack(errors).nan_to_num(nan=sys.float_info.max, posinf=sys.float_info.max).max().item()


def run_model(
    model: MacaronForExpressionPrediction, batch: dict, backend: str | None = None, autocast: bool = False
) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
    """Compute outputs of a model without dropout for a batch, and the gradients of its loss."""
    call = model if backend is None else torch.compile(model, backend=backend, dynamic=False)
    context = torch.autocast(model.device.type, torch.bfloat16) if autocast else nullcontext()
    model.zero_grad()
    with context:
        outputs = call(**batch)
    outputs.loss.backward()
    with torch.inference_mode(), context:
        alone = call(batch["input_ids"], output_nucleotide_logits=False).logits
    return {
        "logits": outputs.logits.detach(),
        "nucleotide logits": outputs.nucleotide_logits.detach(),
        "expression only": alone,
        "gradients": {name: parameter.grad.clone() for name, parameter in model.named_parameters()},
    }


def make_reference(size: str, layers: int) -> MacaronForExpressionPrediction:
    """Make a plain float64 model on the CPU with random weights throughout: new attention is uniform."""
    torch.manual_seed(0)
    model = make_model(size, "separate", "eager", "cpu", num_hidden_layers=layers, hidden_dropout=0.0).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for layer in model.macaron.layers:
            for projection in layer.self_attn.children():  # attention scores then have a spread of about 1.5
                projection.weight.normal_(std=(1.5 / projection.in_features) ** 0.5)
    return model


def check_numbers(run: Run) -> None:
    """Compare outputs and gradients on the device with float64 on the CPU, and the checkpoint with float32 there."""
    plain = make_reference(run.size, run.sizes.check_layers)
    models = {"separate": plain, "merged": plain.to_merged()}
    batch = random_batch(plain, 3)
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        for projections in run.projections:
            models[projections].set_attn_implementation("eager")
            _check_model(run, models[projections], batch)
        _check_checkpoint(run)
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions


def _check_model(run: Run, model: MacaronForExpressionPrediction, batch: dict) -> None:
    """Check float32 and bf16 autocast with both kinds of attention, and compiled with that of the recipe."""
    reference = run_model(model, {**batch, "labels": batch["labels"].double()})
    batch = {name: values.to(run.device) for name, values in batch.items()}
    label = LABELS[model.config.attention_projections]
    for attention in ("eager", "sdpa"):
        own = copy.deepcopy(model).float().to(run.device)
        own.set_attn_implementation(attention)
        for mode in run.modes if attention == "eager" else ("eager",):
            for autocast in (False, True):
                release(run.device)
                name = f"check: {label}, {attention}, {'bf16 autocast' if autocast else 'float32'}, {mode}"
                outcome = run_model(own, batch, run.backend if mode == "compiled" else None, autocast)
                tolerance = AUTOCAST_TOLERANCE if autocast else FLOAT32_TOLERANCE
                error = gradient_error(outcome.pop("gradients"), reference["gradients"])
                run.results.check(f"{name}: gradients", error, 2 * tolerance)
                for output, values in outcome.items():
                    run.results.check(f"{name}: {output}", relative_error(values, reference[output]), tolerance)
        run.save()


def _check_checkpoint(run: Run) -> None:
    """Check predictions and attributions of this repository's checkpoint against float32 on the CPU."""
    ids = np.random.default_rng(0).integers(0, 4, (5, 80))
    promoters = ["".join("ACGT"[one] for one in row) for row in ids]
    on_cpu, device = Predictor.from_pretrained(CHECKPOINT, device="cpu"), str(run.device)
    reference = on_cpu.predict(promoters)
    spread = MacaronConfig.from_pretrained(CHECKPOINT).expression_std
    cases = [(None, CHECKPOINT_TOLERANCE), ("bfloat16", HALF_TOLERANCE), ("float16", HALF_TOLERANCE)]
    for dtype, tolerance in cases:
        found = Predictor.from_pretrained(CHECKPOINT, device=device, dtype=dtype).predict(promoters)
        error = np.abs(found - reference).max() / spread
        run.results.check(f"check: checkpoint, predictions, {dtype or 'float32'}", error, tolerance)
    expected, found = (
        np.stack(integrated_gradients(predictor, promoters, steps=8).per_base)
        for predictor in (on_cpu, Predictor.from_pretrained(CHECKPOINT, device=device))
    )
    error = np.abs(found - expected).max() / spread
    run.results.check("check: checkpoint, integrated gradients", error, CHECKPOINT_TOLERANCE)


def measure_peak(run: Run) -> None:
    """Measure a bf16 matrix product of random numbers."""
    release(run.device)
    rows = run.sizes.matrix
    left, right = (torch.randn(rows, rows, device=run.device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(left)
    seconds = seconds_per_step(lambda: torch.matmul(left, right, out=product), 100, run.device)
    run.peak = 2 * rows**3 / seconds / 1e12
    run.results.figure(f"peak: bf16 matrix product of {rows} x {rows}", run.peak, "TFLOP/s")


def measure_training(run: Run) -> None:
    """Time training steps in a bare loop."""
    _measure_tasks(run, "train", ["train"])


def measure_inference(run: Run) -> None:
    """Time inference with bf16 weights, all outputs and the expression alone."""
    _measure_tasks(run, "inference", ["whole", "expression"])


def _measure_tasks(run: Run, table: str, tasks: list[str]) -> None:
    """Time both kinds of attention, then compile the faster one and try more batch sizes with it."""
    for task in tasks:
        for projections in run.projections:
            known = {"task": task, "projections": projections, "batch_size": run.sizes.batch_size}
            rows = [measure(run, table, **known, attention=name, mode="eager") for name in ("eager", "sdpa")]
            best = max(rows, key=lambda row: row["sequences_per_s"] or 0)
            known["attention"] = best["attention"]
            if "compiled" in run.modes:
                rows.append(measure(run, table, **known, mode="compiled"))
                best = max(best, rows[-1], key=lambda row: row["sequences_per_s"] or 0)
            for batch_size in run.batch_sizes:
                measure(run, table, **{**known, "batch_size": batch_size}, mode=best["mode"])
            name = f"{TASKS[task]}: {LABELS[projections]}, batch {best['batch_size']}"
            note = f"{best['attention']} attention, {best['mode']}"
            shown = task != "whole"
            run.results.figure(name, best["sequences_per_s"], "sequences/s", shown=shown, note=note)
            run.results.figure(f"{name}, share of the peak", best["mfu"], "MFU")


def measure(run: Run, table: str, task: str, projections: str, attention: str, mode: str, batch_size: int) -> dict:
    """Time one form and add its row; an error, such as no memory or no kernel, becomes its note."""
    names = "sequences_per_s", "ms", "first_s", "memory_gb", "mfu"
    row = {"task": task, "projections": projections, "attention": attention, "mode": mode, "batch_size": batch_size}
    row |= dict.fromkeys(names) | {"note": ""}
    release(run.device)
    if run.is_late:
        row["note"] = "the time was up"
    else:
        try:
            step = make_step(run, task, projections, attention, mode, batch_size)
            started = perf_counter()
            step()
            synchronize(run.device)
            first = perf_counter() - started  # compiles
            seconds = seconds_per_step(step, run.sizes.steps, run.device)
            rate = batch_size / seconds
            memory, share = peak_memory_gb(run.device), run.utilization(projections, task, rate)
            row |= dict(zip(names, (rate, 1e3 * seconds, first, memory, share), strict=True))
            row["note"] = "" if step().isfinite().all() else "the output is not finite"
        except RuntimeError as error:
            row["note"] = first_line(error)
    run.results.row(table, **row)
    run.save()
    return row


def first_line(error: Exception) -> str:
    """First line of an error's message, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def make_step(
    run: Run, task: str, projections: str, attention: str, mode: str, batch_size: int
) -> Callable[[], torch.Tensor]:
    """Make a function that starts one step and returns its loss () or its logits (batch, 1)."""
    torch.manual_seed(0)
    model = make_model(run.size, projections, attention, run.device)
    batches = cycle([random_batch(model, batch_size, seed) for seed in range(4)])
    backend = run.backend if mode == "compiled" else None
    if task == "train":
        training_step = TrainingStep(model, backend)
        return lambda: training_step(next(batches))
    model = model.eval().to(torch.bfloat16)
    call = model if backend is None else torch.compile(model, backend=backend, dynamic=False)

    @torch.inference_mode()
    def infer() -> torch.Tensor:
        return call(next(batches)["input_ids"], output_nucleotide_logits=task == "whole").logits

    return infer


def profile_training(run: Run) -> None:
    """Break a training step down by part of the model (table `groups`) and by kernel (table `kernels`)."""
    for projections in () if run.is_late else run.projections:
        for group in time_groups(run, projections):
            run.results.row("groups", projections=projections, **group)
        for kernel in profile_kernels(run, projections):
            run.results.row("kernels", projections=projections, **kernel)
        run.save()


def time_groups(run: Run, projections: str) -> list[dict]:
    """Milliseconds of each part of the blocks on its own, forward and backward, and its share of the whole step.

    "other" is the rest: embeddings, heads, losses and residual additions, less what the compiler fuses.
    """
    mode, rows = run.modes[-1], run.sizes.batch_size
    release(run.device)
    step = make_step(run, "train", projections, "eager", mode, rows)
    whole = 1e3 * seconds_per_step(step, run.sizes.steps, run.device)
    model = make_model(run.size, projections, "eager", run.device)
    batch, config, layer = random_batch(model, rows), model.config, model.macaron.layers[0]
    training_step = TrainingStep(model)
    with torch.autocast(run.device.type, torch.bfloat16):
        model(**batch).loss.backward()  # gradients for the optimizer
    positions = config.sequence_length + config.num_pooled_positions
    states = torch.randn(rows, positions, config.hidden_size, device=run.device, requires_grad=True)
    modules = {
        "attention": (layer.self_attn, config.num_hidden_layers),
        "feed-forward": (layer.feed_forward1, 2 * config.num_hidden_layers),
        "convolution": (layer.convolution, config.num_hidden_layers),
        "block norm": (layer.layer_norm, config.num_hidden_layers),
    }
    groups = {"optimizer": 1e3 * seconds_per_step(training_step.update, run.sizes.steps, run.device)}
    for name, (module, times) in modules.items():
        once = _forward_and_backward(run, module, states, mode)
        groups[name] = 1e3 * times * seconds_per_step(once, run.sizes.steps, run.device)
    groups["other"] = whole - sum(groups.values())
    groups["whole step"] = whole
    return [{"group": name, "ms": ms, "share": ms / whole} for name, ms in groups.items()]


def _forward_and_backward(run: Run, module: nn.Module, states: torch.Tensor, mode: str) -> Callable[[], None]:
    """Make a function that runs a part of the block as a training step does."""
    call = torch.compile(module, backend=run.backend, dynamic=False) if mode == "compiled" else module
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
    step = make_step(run, "train", projections, "eager", run.modes[-1], run.sizes.batch_size)
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
    total = sum(microseconds for microseconds, _, _ in events) or 1
    return [
        {
            "ms": microseconds / 1e3 / _PROFILED_STEPS,
            "share": microseconds / total,
            "launches": count / _PROFILED_STEPS,
            "kernel": name[:120],
        }
        for microseconds, count, name in sorted(events, reverse=True)[:_KERNELS]
    ]


class ShiftedConv(nn.Module):
    """Depthwise convolution as a sum of shifted products that a compiler can fuse; shares the weight."""

    def __init__(self, convolution: nn.Conv1d):
        super().__init__()
        self.weight = convolution.weight

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, hidden, positions) in and out."""
        positions, width = hidden_states.shape[2], self.weight.shape[2]
        left = (width - 1) // 2
        padded = F.pad(hidden_states, (left, width - 1 - left))
        return sum(padded[..., shift : shift + positions] * self.weight[:, :, shift] for shift in range(width))


def shift_convolutions(model: MacaronForExpressionPrediction) -> None:
    """Replace the depthwise convolutions of a model."""
    for layer in model.macaron.layers:
        layer.convolution.depthwise_conv = ShiftedConv(layer.convolution.depthwise_conv)


def keep_stream_in_bfloat16(model: MacaronForExpressionPrediction) -> None:
    """Let embeddings and layer norms return bfloat16, so that the residual stream is bfloat16 too."""
    for module in model.modules():
        if module is model.macaron.embeddings or isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda _, __, output: output.to(torch.bfloat16))


VARIANTS: dict[str, tuple[Callable[[MacaronForExpressionPrediction], None], ...]] = {
    "as it is": (),
    "convolution by shifts": (shift_convolutions,),
    "stream in bfloat16": (keep_stream_in_bfloat16,),
    "both": (shift_convolutions, keep_stream_in_bfloat16),
}


def measure_variants(run: Run) -> None:
    """Time changes to the training step that the library does not have, and CUDA graphs on small batches."""
    small = run.sizes.small_batch_size
    plans = [(name, run.sizes.batch_size, "default") for name in VARIANTS]
    plans += [("as it is", small, mode) for mode in ("default", "reduce-overhead")]
    for projections in run.projections:
        for name, batch_size, compile_mode in plans:
            if run.is_late:
                continue
            seconds, note = None, ""
            try:
                seconds = _time_variant(run, projections, name, batch_size, compile_mode)
            except RuntimeError as error:
                note = first_line(error)
            run.results.row(
                "variants", projections=projections, variant=name, batch_size=batch_size, compile_mode=compile_mode,
                ms=seconds and 1e3 * seconds, sequences_per_s=seconds and batch_size / seconds, note=note,
            )  # fmt: skip
        run.save()


def _time_variant(run: Run, projections: str, name: str, batch_size: int, compile_mode: str) -> float:
    """Seconds of a training step, compiled where the run compiles."""
    release(run.device)
    torch.manual_seed(0)
    model = make_model(run.size, projections, "eager", run.device)
    for change in VARIANTS[name]:
        change(model)
    backend = run.backend if "compiled" in run.modes else None
    step = TrainingStep(model, backend)
    if compile_mode != "default" and backend == "inductor":
        step.call = torch.compile(model, mode=compile_mode, dynamic=False)
    batch = random_batch(model, batch_size)
    return seconds_per_step(lambda: step(batch), run.sizes.steps, run.device)


class StepClock(TrainerCallback):
    """Reads the clock after two steps of a training, once the device has finished them."""

    def __init__(self, steps: tuple[int, int], device: torch.device):
        self.steps, self.device, self.times = steps, device, []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Read the clock."""
        if state.global_step in self.steps:
            synchronize(self.device)
            self.times.append(perf_counter())


def measure_trainer(run: Run) -> None:
    """Time the Trainer with the recipe, from data on the disk."""
    from modeling_macaron.data.prepare import prepare_dataset
    from modeling_macaron.data.sources import open_source

    with TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare_dataset(open_source("simulate", num_sequences=run.sizes.rows, seed=0), data)
        for projections in () if run.is_late else run.projections:
            rate = run.sizes.batch_size / _time_trainer(run, projections, data, Path(folder) / projections)
            name = f"trainer: {LABELS[projections]}, batch {run.sizes.batch_size}"
            run.results.figure(name, rate, "sequences/s", shown=True)
            run.results.figure(f"{name}, share of the peak", run.utilization(projections, "train", rate), "MFU")
            run.save()


def _time_trainer(run: Run, projections: str, data: Path, output: Path) -> float:
    """Seconds of a step of `scripts/train.py` with the recipe, saving nothing."""
    from modeling_macaron.training.arguments import parse_recipe
    from modeling_macaron.training.dataset import PreparedData
    from modeling_macaron.training.run import build_model, make_trainer

    warm_up, timed = run.sizes.trainer_steps
    options = {
        **run.sizes.fields, "attention_projections": projections, "dataset": data, "output_dir": output,
        "global_batch_size": run.sizes.batch_size, "max_steps": warm_up + timed, "eval_strategy": "no",
        "save_strategy": "no", "load_best_model_at_end": "false", "report_to": "none", "disable_tqdm": "true",
        "torch_compile": str("compiled" in run.modes).lower(),
    }  # fmt: skip
    if "compiled" in run.modes:
        options["torch_compile_backend"] = run.backend
    if run.device.type == "cpu":
        options |= {"use_cpu": "true", "dataloader_num_workers": 0, "dataloader_persistent_workers": "false"}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    model_arguments, args = parse_recipe([str(RECIPE), *words])
    release(run.device)
    set_seed(args.seed)
    prepared = PreparedData(data)
    trainer = make_trainer(build_model(model_arguments, prepared, None), args, prepared)
    clock = StepClock((warm_up, warm_up + timed), run.device)
    trainer.add_callback(clock)
    trainer.train()
    return (clock.times[1] - clock.times[0]) / timed
