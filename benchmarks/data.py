"""Data on the CPU: preparation at full scale, the tokenizer, shuffled reading, and bulk prediction."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from time import perf_counter

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from torch.utils.data import DataLoader

from benchmarks.challenge_table import random_sequences, write_challenge_table
from benchmarks.figures import Results, time_call
from benchmarks.inference import make_model
from benchmarks.original_way import prepare as prepare_the_original_way
from benchmarks.peak_memory import run_script
from modeling_macaron.analysis.predict_file import predict_file
from modeling_macaron.training.collator import PromoterCollator
from modeling_macaron.training.data import prepare_dataset
from modeling_macaron.training.dataset import PreparedData
from modeling_macaron.training.sources import open_source
from tokenization import KmerTokenizer

_BATCH_SIZE = 512


def run_preparation(results: Results, rows: int, folder: Path) -> None:
    """Time `scripts/prepare_data.py` on tables of 10,000 rows to `rows`, and on the largest one compressed."""
    sizes = [size for size in (10_000, 100_000, 1_000_000) if size < rows] + [rows]
    seconds = {}
    for size in sizes:
        table = folder / f"{size}.tsv"
        write_challenge_table(table, size)
        seconds[size], peak = _prepare(table, folder / "prepared")
        results.row("preparation", table="TSV", rows=size, seconds=seconds[size], peak_memory_mb=peak)
    bars = {"bar": 300_000} if rows > 1_000_000 else {}
    results.figure(f"preparation of {rows:,} rows, TSV", rows / seconds[rows], "rows/s", **bars)
    results.figure("  peak resident memory", peak, "MB", bar=1000, lower_is_better=True)
    if len(sizes) > 2:  # the smallest table takes as long as the start
        smallest, last = sizes[0], sizes[-2]
        per_row = [(seconds[size] - seconds[smallest]) / (size - smallest) for size in (last, rows)]
        name = f"  its seconds a row after the start, against the table of {last:,} rows"
        results.figure(name, per_row[1] / per_row[0], "x")
    with open(table, "rb") as plain, gzip.open(f"{table}.gz", "wb", compresslevel=1) as compressed:
        shutil.copyfileobj(plain, compressed, 1 << 22)
    compressed_seconds, compressed_peak = _prepare(Path(f"{table}.gz"), folder / "prepared-gz")
    results.row("preparation", table="TSV.gz", rows=rows, seconds=compressed_seconds, peak_memory_mb=compressed_peak)
    results.figure(f"preparation of {rows:,} rows, TSV.gz", rows / compressed_seconds, "rows/s")
    results.check("rows that differ between TSV and TSV.gz", _differing_rows(folder), 0)
    for path in [*folder.glob("*.tsv*"), folder / "prepared-gz"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _compare_with_the_original(results, min(rows, 100_000), folder)


def _prepare(table: Path, output: Path) -> tuple[float, float]:
    """Seconds and peak resident memory (MB) of the command line, Python's start included."""
    shutil.rmtree(output, ignore_errors=True)
    return run_script("prepare_data", "--source", str(table), "--output", str(output))


def _differing_rows(folder: Path) -> int:
    """Rows that the data sets of the plain and of the compressed table do not have in common."""
    differing = 0
    for split in ("train", "validation"):
        plain, compressed = (
            datasets.load_from_disk(str(folder / name / split)) for name in ("prepared", "prepared-gz")
        )
        same = plain.data.table.equals(compressed.data.table)
        differing += 0 if same else max(len(plain), len(compressed))
    return differing


def _compare_with_the_original(results: Results, rows: int, folder: Path) -> None:
    """Prepare the same table in this process by the original's way and by the library's."""
    table = folder / "compare.tsv"
    write_challenge_table(table, rows, seed=1)
    started = perf_counter()
    ids, values = prepare_the_original_way(table)
    original = perf_counter() - started

    started = perf_counter()
    prepare_dataset(open_source(str(table)), folder / "compare", overwrite=True)
    own = perf_counter() - started
    results.figure(f"original's way (pandas, Bio.Seq, dict), {rows:,} rows", rows / original, "rows/s")
    results.figure("  the library on the same rows", rows / own, "rows/s")
    results.figure("  ratio", original / own, "x")
    stored = datasets.concatenate_datasets(
        [datasets.load_from_disk(str(folder / "compare" / split)) for split in ("train", "validation")]
    ).with_format("numpy")
    order = np.argsort(stored["row"][:])
    differing = (stored["input_ids"][:][order] != ids[:, :100]).any(axis=1).sum()
    differing += (~(np.abs(stored["labels"][:][order] - values) <= 1e-5)).sum()
    results.check("rows that differ from the original's way", differing, 0)


def run_tokenizer(results: Results, rows: int, _: Path) -> None:
    """Time the tokenizer on a list of strings and through `datasets.Dataset.map`, on one core."""
    tokenizer = KmerTokenizer()
    count = min(rows, 10_000)
    texts = random_sequences(count).to_pylist()
    for name, options, bars in (("lists", {}, {"bar": 300_000}), ("numpy", {"return_tensors": "np"}, {})):
        seconds = time_call(lambda o=options: tokenizer(texts, **o), repeats=5)
        results.figure(f"tokenizer, {count:,} strings to {name}", count / seconds, "sequences/s", **bars)
    table = datasets.Dataset(pa.table({"sequence": random_sequences(10 * count)}))
    for name, options, bars in (("lists", {}, {"bar": 100_000}), ("numpy", {"return_tensors": "np"}, {})):
        started = perf_counter()
        table.map(
            lambda batch, o: tokenizer(batch["sequence"], **o),
            batched=True,
            fn_kwargs={"o": options},
            load_from_cache_file=False,
        ).cleanup_cache_files()
        seconds = perf_counter() - started
        results.figure(f"  through map(batched=True), {name}", len(table) / seconds, "sequences/s", **bars)


def run_reading(results: Results, rows: int, folder: Path) -> None:
    """Time shuffled batches of 512 from Arrow through the collator: in this process, and from worker processes."""
    if not (folder / "prepared").is_dir():
        write_challenge_table(folder / "reading.tsv", min(rows, 1_000_000))
        prepare_dataset(open_source(str(folder / "reading.tsv")), folder / "prepared")
    data = PreparedData(folder / "prepared")
    batches = max(1, min(150, len(data.train) // _BATCH_SIZE - 5))
    for strands in ("independent", "paired"):
        for workers in (0, 1, 2):
            collator = PromoterCollator(data.expression_mean, data.expression_std, strands=strands)
            loader = DataLoader(
                data.train, _BATCH_SIZE, shuffle=True, collate_fn=collator, num_workers=workers, drop_last=True
            )
            iterator = iter(loader)
            for _ in range(5):
                next(iterator)
            started = perf_counter()
            for _ in range(batches):
                next(iterator)
            speed = batches * _BATCH_SIZE / (perf_counter() - started)
            results.row("reading", strands=strands, worker_processes=workers, sequences_per_second=speed)
            if workers == 1:
                bar = {"bar": 50_000}
                results.figure(f"shuffled reading, 1 worker, masks {strands}", speed, "sequences/s", **bar)
            del iterator


def run_bulk_prediction(results: Results, rows: int, folder: Path) -> None:
    """Time a file through a small model: against the model alone, and with equal sequences computed once."""
    count = min(rows, 20_000)
    sequences = random_sequences(count // 10, seed=2)
    repeated = sequences.take(pa.array(np.random.default_rng(0).integers(0, len(sequences), count)))
    pa.parquet.write_table(pa.table({"sequence": repeated}), folder / "promoters.parquet")
    model = make_model("tiny")
    ids = torch.from_numpy(KmerTokenizer()(repeated.to_pylist(), return_tensors="np")["input_ids"])
    with torch.inference_mode():
        alone = time_call(lambda: [model(batch, output_nucleotide_logits=False) for batch in ids.split(256)], repeats=1)
    seconds, outputs = {}, {}
    for deduplicate in (False, True):
        output = folder / f"predicted-{deduplicate}.parquet"
        started = perf_counter()
        predict_file(model, folder / "promoters.parquet", output, deduplicate=deduplicate, overwrite=True)
        seconds[deduplicate] = perf_counter() - started
        outputs[deduplicate] = pa.parquet.read_table(output)["predicted_expression"].to_numpy()
    results.figure(f"bulk prediction, tiny model, {count:,} rows", count / seconds[False], "sequences/s")
    results.figure("  share of the time that the model alone takes", alone / seconds[False], "")
    results.figure("  --deduplicate where each sequence stands ten times", seconds[False] / seconds[True], "x")
    config = model.config
    with torch.inference_mode():
        logits = torch.cat([model(batch).logits[:, 0] for batch in ids.split(1000)])
    expected = logits.double().numpy() * config.expression_std + config.expression_mean
    for deduplicate, values in outputs.items():
        name = "file = batches of the model" + (", deduplicated" if deduplicate else "")
        results.check(name, np.abs(values - expected).max(), 1e-5)
