"""Parts of the GPU benchmark that time what users start: a training run and the prediction of a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import pyarrow.parquet as pq
import torch
import yaml
from accelerate.utils import send_to_device
from torch._dynamo.utils import counters
from transformers import Trainer, TrainerCallback, set_seed

from benchmarks.gpu_setup import (
    LABELS,
    RECIPE,
    Run,
    TrainingStep,
    make_model,
    peak_memory_gb,
    release,
    seconds_per_step,
    synchronize,
)
from benchmarks.gpu_verbs import CHECKPOINT
from modeling_macaron.analysis.predict_file import predict_file
from modeling_macaron.training.arguments import parse_recipe
from modeling_macaron.training.simulation import simulate
from tokenization import KmerTokenizer

TRAINER_BAR = 5200
LOSS_BAR = 10
UTILIZATION_BAR = 0.5
MERGED_BAR = 1.3
BULK_BAR, BULK_BAR_ROWS = 60, 1_000_000
_BATCHES = 4
_NO_DATASETS = "the library `datasets` is not installed"


class StepTimer(TrainerCallback):
    """Clock a window of a training run, waiting for the device at its two ends only.

    Parameters
    ----------
    first, last : int
        Optimizer steps after which the window begins and ends.
    device : torch.device
        Where the run takes place.
    """

    def __init__(self, first: int, last: int, device: torch.device):
        self.first = first
        self.last = last
        self.device = device
        self._clock: dict[int, float] = {}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Read the clock at both ends."""
        if state.global_step in (self.first, self.last):
            synchronize(self.device)
            self._clock[state.global_step] = perf_counter()

    @property
    def seconds_per_step(self) -> float:
        """Seconds of an optimizer step."""
        return (self._clock[self.last] - self._clock[self.first]) / (self.last - self.first)


def measure_trainer(run: Run) -> None:
    """Time the Trainer as `scripts/train.py` starts it, beside a bare loop over the same batches.

    Parameters
    ----------
    run : Run
        Gets the figures and the table `trainer`; figures without a value where the library `datasets` or memory lacks.
    """
    rates, notes = {}, dict.fromkeys(run.projections, "")
    if find_spec("datasets") is None:
        notes = dict.fromkeys(run.projections, _NO_DATASETS)
    else:
        with TemporaryDirectory() as folder:
            data = prepare_data(Path(folder), run.sizes.rows)
            for projections in run.projections:
                try:
                    rates[projections] = time_trainer(run, projections, data, Path(folder) / projections)
                except torch.cuda.OutOfMemoryError:
                    notes[projections] = "out of memory"
                run.save()
    _report_trainer(run, rates, notes)


def prepare_data(folder: Path, rows: int) -> Path:
    """Simulate and prepare promoters, as `scripts/prepare_data.py --source simulate` does."""
    from modeling_macaron.training.data import prepare_dataset
    from modeling_macaron.training.sources import open_source

    prepare_dataset(open_source("simulate", num_sequences=rows, seed=0), folder / "data")
    return folder / "data"


def trainer_options(run: Run, projections: str, data: Path, output: Path) -> list[str]:
    """Command line of `scripts/train.py` for some steps that write nothing."""
    fields = {**run.sizes.fields, "attention_projections": projections}
    options = {
        **fields,
        "dataset": data,
        "output_dir": output,
        "global_batch_size": run.sizes.batch_size,
        "max_steps": sum(run.sizes.trainer_steps),
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": "false",
        "report_to": "none",
        "disable_tqdm": "true",
    }
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    if "compiled" not in run.modes:
        options["torch_compile"] = "false"
    elif recipe.get("torch_compile"):
        options["torch_compile_backend"] = run.backend
    if run.device.type == "cpu":
        options |= {"use_cpu": "true", "dataloader_num_workers": 0, "dataloader_persistent_workers": "false"}
    return [str(RECIPE), *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


def time_trainer(run: Run, projections: str, data: Path, output: Path) -> dict:
    """Time the Trainer, its data alone, and a bare loop.

    Parameters
    ----------
    run : Run
        Gets a row of the table `trainer`.
    projections : str
        `separate` or `merged`.
    data, output : Path
        The prepared data, and a folder for the run.

    Returns
    -------
    dict
        The row: sequences/s of the three, the Trainer's memory, and the graphs that were compiled and broken.
    """
    from modeling_macaron.training.dataset import PreparedData
    from modeling_macaron.training.run import build_model, make_trainer

    model_arguments, args = parse_recipe(trainer_options(run, projections, data, output))
    prepared = PreparedData(data)
    release(run.device)
    counters.clear()
    set_seed(args.seed)
    model = build_model(model_arguments, prepared, None)
    trainer = make_trainer(model, args, prepared)
    attention = model.config._attn_implementation
    row = {"projections": projections, "attention": attention, "compiled": args.torch_compile}
    row |= time_steps(trainer, run)
    loader = trainer.get_train_dataloader()
    row["data_alone"] = run.sizes.batch_size / seconds_per_batch(loader, run.sizes.trainer_steps[1] // 2)
    batches = list(itertools.islice(loader, _BATCHES))
    del model, trainer, loader
    release(run.device)
    model = build_model(model_arguments, prepared, None).to(run.device)
    model.set_attn_implementation(attention)
    step = TrainingStep(model, args.torch_compile_backend if args.torch_compile else None)
    row["bare_loop"] = run.sizes.batch_size / time_bare_loop(step, batches, run)
    run.results.row("trainer", **row)
    return row


def time_steps(trainer: Trainer, run: Run) -> dict:
    """Train, and time the steps after the first ones.

    Parameters
    ----------
    trainer : Trainer
        Not started yet.
    run : Run
        Says how many steps.

    Returns
    -------
    dict
        Sequences/s (`trainer`), memory, and how many graphs were compiled and broken.
    """
    warm_up, timed = run.sizes.trainer_steps
    timer = StepTimer(warm_up, warm_up + timed, run.device)
    trainer.add_callback(timer)
    trainer.train()
    return {
        "trainer": run.sizes.batch_size / timer.seconds_per_step,
        "memory_gb": peak_memory_gb(run.device),
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
    }


def seconds_per_batch(loader: Iterable, batches: int) -> float:
    """Time the loader of a Trainer without its model."""
    iterator = iter(loader)
    next(iterator)
    started = perf_counter()
    read = sum(1 for _ in itertools.islice(iterator, batches))
    return (perf_counter() - started) / read


def time_bare_loop(step: TrainingStep, batches: list[dict], run: Run) -> float:
    """Seconds of a step over batches that lie on the device already."""
    endless = itertools.cycle([send_to_device(batch, run.device) for batch in batches])
    for _ in range(3):
        step(next(endless))
    return seconds_per_step(lambda: step(next(endless)), run.sizes.trainer_steps[1], run.device)


def _report_trainer(run: Run, rates: dict[str, dict], notes: dict[str, str]) -> None:
    """Add the figures of both projections; those that could not be measured have no value, and a note."""
    for projections in run.projections:
        row, note = rates.get(projections), notes[projections]
        name, plain = f"trainer: {LABELS[projections]}", projections == "separate"
        rate = row and row["trainer"]
        loss = row and 100 * (1 - rate / row["bare_loop"])
        share = row and run.utilization(projections, "train", rate)
        rows = (
            (f"{name}, batch {run.sizes.batch_size}", rate, "sequences/s", TRAINER_BAR if plain else None),
            (f"{name}, loss against the bare loop", loss, "%", LOSS_BAR),
            (f"{name}, share of the peak", share, "MFU", UTILIZATION_BAR if plain else None),
        )
        for title, value, unit, bar in rows:
            run.results.figure(title, value, unit, bar=run.bar(bar), lower_is_better=unit == "%", note=note)
    rows = {row["projections"]: row for row in run.results.tables.get("trainer", [])}
    if set(rows) | set(run.projections) == set(LABELS):
        ratio = rows["merged"]["trainer"] / rows["separate"]["trainer"] if len(rows) == len(LABELS) else None
        note = next(filter(None, notes.values()), "")
        run.results.figure("trainer: merged over plain", ratio, "x", bar=run.bar(MERGED_BAR), note=note)


def write_promoters(path: Path, rows: int) -> None:
    """Write simulated promoters as Parquet with one column, `sequence`."""
    writer = None
    for batch in simulate(rows, seed=0):
        table = batch.table.select(["sequence"])
        writer = pq.ParquetWriter(path, table.schema) if writer is None else writer
        writer.write_table(table)
    writer.close()


def measure_bulk(run: Run) -> None:
    """Time the prediction of a file from Parquet to Parquet, loading included.

    With the paper's model merged, in bf16 and compiled; and with this repository's checkpoint as it is.

    Parameters
    ----------
    run : Run
        Gets the figures, and equalities of the rows that were read and written.
    """
    with TemporaryDirectory() as folder:
        source, checkpoint = (Path(folder) / name for name in ("source.parquet", "model"))
        torch.manual_seed(0)
        make_model(run.size, "separate", "sdpa", "cpu").save_pretrained(checkpoint)
        KmerTokenizer().save_pretrained(checkpoint)
        write_promoters(source, run.bulk_rows)
        settings = {"merged": True, "dtype": "bfloat16", "compile_model": "compiled" in run.modes}
        _time_bulk(run, "", checkpoint, source, settings, "merged, bf16, with loading")
        _time_bulk(run, ", this repository's checkpoint", CHECKPOINT, source, {}, "float32, with loading")


def _time_bulk(run: Run, name: str, checkpoint: Path, source: Path, settings: dict, note: str) -> None:
    """Time one model on a file; only the paper's model has a bar."""
    output = source.with_name("output.parquet")
    release(run.device)
    started = perf_counter()
    predicted = predict_file(
        checkpoint,
        source,
        output,
        batch_size=run.sizes.bulk_batch_size,
        device=str(run.device),
        overwrite=True,
        **settings,
    )
    seconds = perf_counter() - started
    missing = run.bulk_rows - pq.read_metadata(output).num_rows + predicted.num_problems
    run.results.check(f"bulk: rows without a prediction{name}", missing, 0)
    bar = run.bar(BULK_BAR) if run.bulk_rows == BULK_BAR_ROWS and settings else None
    name = f"bulk: {run.bulk_rows:,} sequences from Parquet to Parquet{name}"
    run.results.figure(name, seconds, "s", bar=bar, lower_is_better=True, note=note)
    run.results.figure(f"{name}, rate", run.bulk_rows / seconds, "sequences/s")
    run.save()
