"""Parts of the GPU benchmark that time bare loops: the matrix peak, training steps, inference, and their kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import cycle
from time import perf_counter
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_setup import (
    ATTENTIONS,
    LABELS,
    TASKS,
    Run,
    TrainingStep,
    attention_kernels,
    make_model,
    peak_memory_gb,
    random_batch,
    release,
    seconds_per_step,
    synchronize,
)

INFERENCE_BAR = 25_000
OUT_OF_MEMORY = "out of memory"
_BATCHES = 4
_WARM_UP = 2
_WORTH_COMPILING = 1.1  # times the shortest time; compiling takes a minute or more
_PROFILED_STEPS = 3
_KERNELS = 16


class Form(NamedTuple):
    """One way to run the model; see `Run` and `TASKS` for the values."""

    task: str
    projections: str
    attention: str
    compiled: bool
    batch_size: int

    @property
    def table(self) -> str:
        """Table that the form's row belongs to, named as the part."""
        return "train" if self.task == "train" else "inference"

    def describe(self) -> str:
        """Name the form for people."""
        mode = "compiled" if self.compiled else "eager mode"
        return f"{LABELS[self.projections]}, {self.attention} attention, {mode}, batch {self.batch_size}"


def measure_peak(run: Run) -> None:
    """Measure a bf16 matrix product of random numbers."""
    release(run.device)
    rows = run.sizes.matrix
    left, right = (torch.randn(rows, rows, device=run.device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(left)
    torch.matmul(left, right, out=product)
    seconds = seconds_per_step(lambda: torch.matmul(left, right, out=product), 100, run.device)
    run.peak = 2 * rows**3 / seconds / 1e12
    run.results.figure(f"peak: bf16 matrix product of {rows} x {rows}", run.peak, "TFLOP/s")


def measure_training(run: Run) -> None:
    """Time training steps in a bare loop in all forms, then the best of them over batch sizes."""
    best = survey(run, "train")
    for projections, row in best.items():
        name = f"train: {LABELS[projections]}, bare loop, batch {run.sizes.batch_size}"
        run.results.figure(name, row["sequences_per_s"], "sequences/s", note=_form(row).describe())
        run.results.figure(f"{name}, share of the peak", row["mfu"], "MFU")


def measure_inference(run: Run) -> None:
    """Time inference with bf16 weights in all forms, the whole output and the expression alone."""
    for task in ("expression", "whole"):
        survey(run, task)
        for projections in run.projections:
            row = fastest(run, task=task, projections=projections)
            if row is None:
                continue
            bar = run.bar(INFERENCE_BAR) if (task, projections) == ("expression", "merged") else None
            name = f"inference: {LABELS[projections]}, {'expression only' if task == 'expression' else 'whole output'}"
            run.results.figure(name, row["sequences_per_s"], "sequences/s", bar=bar, note=_form(row).describe())


def survey(run: Run, task: str) -> dict[str, dict]:
    """Measure a task in every form at one batch size, and the best of each projection and mode at the others.

    Parameters
    ----------
    run : Run
        Says which forms.
    task : str
        Key of `TASKS`.

    Returns
    -------
    dict
        Projections to the row of their best form at the one batch size; those of which a form ran.
    """
    best = {}
    known = {"task": task, "batch_size": run.sizes.batch_size}
    for projections in run.projections:
        for mode in run.modes:
            for attention in _attentions(run, task, projections, mode):
                measure(run, Form(task, projections, attention, mode == "compiled", run.sizes.batch_size))
        row = fastest(run, **known, projections=projections)
        if row is not None:
            best[projections] = row
    for projections in best:
        for mode in run.modes:
            row = fastest(run, **known, projections=projections, compiled=mode == "compiled")
            for batch_size in sorted(set(run.batch_sizes) - {run.sizes.batch_size}) if row else ():
                if measure(run, _form(row)._replace(batch_size=batch_size))["note"] == OUT_OF_MEMORY:
                    break
    return best


def _attentions(run: Run, task: str, projections: str, mode: str) -> list[str]:
    """Attention to try; compiling takes long, so only what ran, and about as fast as the fastest."""
    if mode == "eager" or "eager" not in run.modes:
        return list(run.attentions)
    known = {"task": task, "projections": projections, "batch_size": run.sizes.batch_size, "compiled": False}
    row = fastest(run, **known)
    if row is None:
        return list(run.attentions)
    rates = {attention: fastest(run, **known, attention=attention) for attention in run.attentions}
    least = row["sequences_per_s"] / _WORTH_COMPILING
    return [attention for attention, own in rates.items() if own is not None and own["sequences_per_s"] >= least]


def fastest(run: Run, task: str, **known) -> dict | None:
    """Find the fastest row of a task with known columns; None where none was timed."""
    rows = run.results.tables.get("train" if task == "train" else "inference", [])
    known["task"] = task
    timed = [row for row in rows if row["ms"] is not None and all(row[name] == known[name] for name in known)]
    return max(timed, key=lambda row: row["sequences_per_s"], default=None)


def measure(run: Run, form: Form) -> dict:
    """Time one form; whatever stops it becomes the note of its row.

    Parameters
    ----------
    run : Run
        Gets the row, and is saved.
    form : Form
        What to time.

    Returns
    -------
    dict
        The row: the form, sequences/s, milliseconds of a step, seconds of the first step (compilation), memory, MFU.
    """
    row = {**form._asdict(), "sequences_per_s": None, "ms": None, "first_s": None, "memory_gb": None, "mfu": None}
    note = ""
    release(run.device)
    if run.is_late:
        note = "left out: the time was up"
    else:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                timed = _time_form(run, form)
            except RuntimeError as error:
                note = explain(error, [str(warning.message) for warning in caught], form.attention)
            else:
                row |= timed
                note = row.pop("note")
    row["note"] = note
    run.results.row(form.table, **row)
    run.save()
    return row


def explain(error: RuntimeError, hints: list[str], attention: str) -> str:
    """Say in one line why a form did not run.

    Parameters
    ----------
    error : RuntimeError
        What stopped it.
    hints : list of str
        Warnings before it: PyTorch tells there why a backend of attention refuses.
    attention : str
        Key of `ATTENTIONS`.

    Returns
    -------
    str
    """
    if isinstance(error, torch.cuda.OutOfMemoryError) or OUT_OF_MEMORY in str(error):
        return OUT_OF_MEMORY
    lines = [text.strip().splitlines()[0].split(" (Triggered internally")[0] for text in (str(error), *hints) if text]
    verb = "failed" if ATTENTIONS[attention] is None else "refused"
    return f"{verb}: {'; '.join(dict.fromkeys(lines))[:400]}"


def make_step(run: Run, form: Form) -> Callable[[], torch.Tensor]:
    """Make a function that starts one step of a form and returns its loss () or its logits (batch, 1)."""
    torch.manual_seed(0)
    model = make_model(run.size, form.projections, form.attention, run.device)
    batches = cycle([random_batch(model, form.batch_size, seed) for seed in range(_BATCHES)])
    backend = run.backend if form.compiled else None
    if form.task == "train":
        training_step = TrainingStep(model, backend)
        return lambda: training_step(next(batches))
    model = model.eval().to(torch.bfloat16)
    call = model if backend is None else torch.compile(model, backend=backend, dynamic=False)
    whole = form.task == "whole"

    @torch.inference_mode()
    def infer() -> torch.Tensor:
        return call(next(batches)["input_ids"], output_nucleotide_logits=whole).logits

    return infer


def _time_form(run: Run, form: Form) -> dict:
    """Columns of a row that are measured."""
    step = make_step(run, form)
    with attention_kernels(form.attention):
        started = perf_counter()
        step()
        synchronize(run.device)
        first = perf_counter() - started
        for _ in range(_WARM_UP):
            step()
        seconds = seconds_per_step(step, run.steps, run.device)
        is_finite = bool(step().isfinite().all())
    rate = form.batch_size / seconds
    return {
        "sequences_per_s": rate,
        "ms": 1e3 * seconds,
        "first_s": first,
        "memory_gb": peak_memory_gb(run.device),
        "mfu": run.utilization(form.projections, form.task, rate),
        "note": "" if is_finite else "the output is not finite",
    }


def measure_kernels(run: Run) -> None:
    """Report where the time of a training step goes, in the best form of each projection (untimed: the first compiled).

    Writes the table `groups` (parts of the model on their own, see `time_groups`) and the table `profile` (kernels).
    """
    for projections in run.projections:
        row = fastest(run, task="train", projections=projections, batch_size=run.sizes.batch_size)
        form = Form("train", projections, run.attentions[0], "compiled" in run.modes, run.sizes.batch_size)
        if row is not None:
            form = _form(row)
        if run.is_late:
            continue
        print(f"  {form.describe()}", flush=True)
        release(run.device)
        for group in time_groups(run, form):
            run.results.row("groups", projections=projections, **group)
        release(run.device)
        for kernel in profile_form(run, form):
            run.results.row("profile", projections=projections, **kernel)
        run.save()


def time_groups(run: Run, form: Form) -> list[dict]:
    """Time forward and backward of each part of the block on its own, the optimizer, and the whole step.

    Parameters
    ----------
    run : Run
        Names the device.
    form : Form
        A training step.

    Returns
    -------
    list of dict
        `group`, `ms` of a step and `share` of the whole step. "other" is the remainder: embeddings, heads, losses and
        residual additions, less what the compiler fuses.
    """
    whole = 1e3 * _seconds_of(run, form, make_step(run, form))
    model = make_model(run.size, form.projections, form.attention, run.device)
    batch = random_batch(model, form.batch_size)
    step = TrainingStep(model)
    with torch.autocast(run.device.type, torch.bfloat16):
        model(**batch).loss.backward()  # gradients for the optimizer
    layer, config = model.macaron.layers[0], model.config
    positions = config.sequence_length + config.num_pooled_positions
    states = torch.randn(form.batch_size, positions, config.hidden_size, device=run.device, requires_grad=True)
    modules = {
        "attention": (layer.self_attn, config.num_hidden_layers),
        "feed-forward": (layer.feed_forward1, 2 * config.num_hidden_layers),
        "convolution": (layer.convolution, config.num_hidden_layers),
        "block norm": (layer.layer_norm, config.num_hidden_layers),
    }
    groups = {"optimizer": 1e3 * _seconds_of(run, form, step.update)}
    host = {name: values.cpu() for name, values in batch.items()}
    groups["data"] = 1e3 * _seconds_of(run, form, lambda: [values.to(run.device) for values in host.values()])
    for name, (module, times) in modules.items():
        groups[name] = 1e3 * times * _seconds_of(run, form, _forward_and_backward(run, form, module, states))
    groups["other"] = whole - sum(groups.values())
    groups["whole step"] = whole
    return [{"group": name, "ms": ms, "share": ms / whole} for name, ms in groups.items()]


def _seconds_of(run: Run, form: Form, step: Callable[[], object]) -> float:
    with attention_kernels(form.attention):
        for _ in range(1 + _WARM_UP):
            step()
        return seconds_per_step(step, run.steps, run.device)


def _forward_and_backward(run: Run, form: Form, module: torch.nn.Module, states: torch.Tensor) -> Callable[[], None]:
    """Make a function that runs a part of the block as a training step does."""
    call = torch.compile(module, backend=run.backend, dynamic=False) if form.compiled else module
    inputs = (states, states) if module.__class__.__name__.endswith("Attention") else (states,)

    def once() -> None:
        module.zero_grad(set_to_none=True)
        states.grad = None
        with torch.autocast(run.device.type, torch.bfloat16):
            outputs = call(*inputs)
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        outputs.backward(torch.ones_like(outputs))

    return once


def profile_form(run: Run, form: Form) -> list[dict]:
    """Profile some steps.

    Parameters
    ----------
    run : Run
        Names the device.
    form : Form
        What to profile.

    Returns
    -------
    list of dict
        The kernels (on a CPU: operators) that take longest: milliseconds of a step, share of all, launches in a step.
    """
    on_gpu = run.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    step = make_step(run, form)
    with attention_kernels(form.attention):
        for _ in range(1 + _WARM_UP):
            step()
        synchronize(run.device)
        with profile(activities=activities) as profiler:
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


def _form(row: dict) -> Form:
    """Form that a row is of."""
    return Form(**{name: row[name] for name in Form._fields})


def print_forms(run: Run) -> None:
    """Print every form that was timed or refused, and note the fastest attention of each task."""
    line = "{:<26} {:<8} {:<10} {:<9} {:>6} {:>12} {:>9} {:>8} {:>6}  {}"
    print(line.format("", "", "attention", "mode", "batch", "sequences/s", "ms", "GB", "MFU", ""))
    for row in [row for table in ("train", "inference") for row in run.results.tables.get(table, [])]:
        numbers = (("sequences_per_s", ",.0f"), ("ms", ",.2f"), ("memory_gb", ".1f"), ("mfu", ".3f"))
        shown = ["-" if row[name] is None else format(row[name], form) for name, form in numbers]
        mode = "compiled" if row["compiled"] else "eager"
        names = TASKS[row["task"]], LABELS[row["projections"]], row["attention"], mode, row["batch_size"]
        print(line.format(*names, *shown, row["note"]))
    choose_attention(run)


def choose_attention(run: Run) -> None:
    """Write the fastest attention of each task, projections and mode at the one batch size."""
    print("fastest attention")
    run.results.tables.pop("fastest", None)
    for task in TASKS:
        for projections in LABELS:
            for compiled in (False, True):
                known = {"projections": projections, "compiled": compiled, "batch_size": run.sizes.batch_size}
                best = fastest(run, task, **known)
                if best is None:
                    continue
                others = [
                    fastest(run, task, **known, attention=name) for name in ATTENTIONS if name != best["attention"]
                ]
                second = max((row["sequences_per_s"] for row in others if row), default=None)
                run.results.row(
                    "fastest",
                    task=task,
                    projections=projections,
                    compiled=compiled,
                    attention=best["attention"],
                    sequences_per_s=best["sequences_per_s"],
                    times_the_next=None if second is None else best["sequences_per_s"] / second,
                )
