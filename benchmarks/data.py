"""Data on the CPU: preparation at full scale, the tokenizer and shuffled reading."""

from __future__ import annotations

import argparse
import gzip
import shutil
from pathlib import Path
from time import perf_counter

import datasets
import numpy as np
from torch.utils.data import DataLoader

from benchmarks.figures import Results, run_script, time_in_turn
from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.sources import open_source
from modeling_macaron.training.collator import PromoterCollator
from modeling_macaron.training.dataset import PreparedData
from tokenization import FLANK3, FLANK5, KmerTokenizer

CHALLENGE_ROWS = 6_739_258
_BLOCK_ROWS = 100_000
_LENGTHS = np.arange(57, 107)  # of the variable part; 0.02 % of the challenge's rows are longer than 100
_BATCH_SIZE = 512


def random_sequences(num_rows: int, seed: int = 0) -> list[str]:
    """Draw promoters with the challenge's flanks. Four of five have 110 nt, others 87 to 136, and 0.4 % have an N."""
    rng = np.random.default_rng(seed)
    away = np.abs(_LENGTHS - 80)
    shares = np.where(away == 0, 0.82, 0.18 * 0.5**away / (0.5 ** away[away > 0]).sum())
    lengths = rng.choice(_LENGTHS, num_rows, p=shares / shares.sum()).tolist()
    bases = np.array(list("ACGT"))[rng.integers(0, 4, (num_rows, _LENGTHS[-1]))]
    with_n = np.flatnonzero(rng.random(num_rows) < 0.004)
    bases[with_n, rng.integers(0, _LENGTHS[0], len(with_n))] = "N"
    texts = bases.view(f"U{_LENGTHS[-1]}").ravel().tolist()
    return [FLANK5 + text[:length] + FLANK3 for text, length in zip(texts, lengths, strict=True)]


def write_challenge_table(path: Path, num_rows: int) -> None:
    """Write a random TSV like the challenge's training file, without header and with 58 % whole values."""
    with path.open("w", encoding="ascii") as stream:
        for start in range(0, num_rows, _BLOCK_ROWS):
            rows = min(_BLOCK_ROWS, num_rows - start)
            rng = np.random.default_rng(start)
            values = np.clip(rng.normal(11.1, 2.35, rows), 0, 17)
            values = np.where(rng.random(rows) < 0.58, values.round(), values).tolist()
            pairs = zip(random_sequences(rows, start), values, strict=True)
            stream.writelines(f"{sequence}\t{value:.16g}\n" for sequence, value in pairs)


def run_preparation(results: Results, args: argparse.Namespace, folder: Path) -> None:
    """Time `scripts/prepare_data.py` on tables of 10,000 rows to `args.rows`, and on the largest one compressed."""
    for rows in [*(rows for rows in (10_000, 100_000, 1_000_000) if rows < args.rows), args.rows]:
        table = folder / "table.tsv"
        write_challenge_table(table, rows)
        seconds, peak = _prepare(results, table, rows, folder / "prepared")
    results.figure(f"preparation of {rows:,} rows, TSV", rows / seconds, "rows/s", shown=True)
    results.figure(f"preparation of {rows:,} rows, TSV, peak resident memory", peak, "MB", shown=True)
    with table.open("rb") as plain, gzip.open(f"{table}.gz", "wb", compresslevel=1) as compressed:
        shutil.copyfileobj(plain, compressed, 1 << 22)
    seconds, _ = _prepare(results, Path(f"{table}.gz"), rows, folder / "prepared-gz")
    results.figure(f"preparation of {rows:,} rows, TSV.gz", rows / seconds, "rows/s")
    plain, compressed = (datasets.load_from_disk(str(folder / name)) for name in ("prepared", "prepared-gz"))
    differing = sum(not plain[split].data.table.equals(compressed[split].data.table) for split in plain)
    results.check("splits that differ between TSV and TSV.gz", differing, 0)


def _prepare(results: Results, table: Path, rows: int, output: Path) -> tuple[float, float]:
    """Measure seconds, with Python's start, and peak resident memory (MB) of the command."""
    shutil.rmtree(output, ignore_errors=True)
    seconds, peak = run_script("prepare_data", "--source", table, "--output", output)
    kind = "".join(table.suffixes).removeprefix(".").replace("tsv", "TSV")
    results.row("preparation", table=kind, rows=rows, seconds=seconds, peak_memory_mb=peak)
    return seconds, peak


def run_tokenizer(results: Results, args: argparse.Namespace, _: Path) -> None:
    """Time the tokenizer on a list of strings and through `datasets.Dataset.map`, on one core."""
    tokenizer = KmerTokenizer()
    count = min(args.rows, 10_000)
    texts = random_sequences(count)
    table = datasets.Dataset.from_dict({"sequence": random_sequences(10 * count)})
    for name, options in (("lists", {}), ("numpy", {"return_tensors": "np"})):
        shown = name == "lists"
        seconds = time_in_turn({name: lambda o=options: tokenizer(texts, **o)}, rounds=5)[name]
        results.figure(f"tokenizer, {count:,} strings to {name}", count / seconds, "sequences/s", shown)
        started = perf_counter()
        table.map(
            lambda batch, o: tokenizer(batch["sequence"], **o),
            batched=True,
            fn_kwargs={"o": options},
            load_from_cache_file=False,
        ).cleanup_cache_files()
        rate = len(table) / (perf_counter() - started)
        results.figure(f"tokenizer, through map(batched=True), {name}", rate, "sequences/s", shown)


def run_reading(results: Results, args: argparse.Namespace, folder: Path) -> None:
    """Time shuffled batches of 512 from Arrow through the collator, in this process and in workers."""
    if not (folder / "prepared").is_dir():
        write_challenge_table(folder / "reading.tsv", min(args.rows, 1_000_000))
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
                results.figure(f"shuffled reading, 1 worker, masks {strands}", speed, "sequences/s", shown=True)
            del iterator
