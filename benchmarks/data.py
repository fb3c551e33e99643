"""Data on the CPU: preparation at full scale, the tokenizer and shuffled reading."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from torch.utils.data import DataLoader

from benchmarks.figures import Results, time_in_turn
from benchmarks.memory import run_script
from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.sources import open_source
from modeling_macaron.io.atomic import new_file
from modeling_macaron.training.collator import PromoterCollator
from modeling_macaron.training.dataset import PreparedData
from tokenization import FLANK3, FLANK5, KmerTokenizer

CHALLENGE_ROWS = 6_739_258
_BLOCK_ROWS = 100_000
_LENGTHS = np.arange(57, 107)  # of the variable part; 0.02 % of the challenge's rows are longer than 100
_BATCH_SIZE = 512


def random_sequences(num_rows: int, seed: int = 0) -> pa.StringArray:
    """Draw promoters between the challenge's flanks: four of five have 110 nt, others 87 to 136; 0.4 % hold an N."""
    rng = np.random.default_rng(seed)
    away = np.abs(_LENGTHS - 80)
    shares = np.where(away == 0, 0.82, 0.18 * 0.5**away / (0.5 ** away[away > 0]).sum())
    lengths = rng.choice(_LENGTHS, num_rows, p=shares / shares.sum())
    width = len(FLANK5) + _LENGTHS[-1] + len(FLANK3)
    bases = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, (num_rows, width), np.uint8)]
    with_n = np.flatnonzero(rng.random(num_rows) < 0.004)
    bases[with_n, len(FLANK5) + rng.integers(0, _LENGTHS[0], len(with_n))] = ord("N")
    bases[:, : len(FLANK5)] = np.frombuffer(FLANK5.encode(), np.uint8)
    ends = len(FLANK5) + lengths
    flank3 = np.frombuffer(FLANK3.encode(), np.uint8)
    bases[np.arange(num_rows)[:, None], ends[:, None] + np.arange(len(FLANK3))] = flank3
    ends = ends + len(FLANK3)
    kept = bases[np.arange(width) < ends[:, None]]
    offsets = np.concatenate([[0], np.cumsum(ends)]).astype(np.int32)
    return pa.StringArray.from_buffers(num_rows, pa.py_buffer(offsets), pa.py_buffer(kept))


def random_values(num_rows: int, seed: int = 0) -> pa.StringArray:
    """Draw expression values as text: 58 % whole, the others with 15 or 16 digits, as in the challenge's table."""
    rng = np.random.default_rng(seed)
    numbers = np.clip(rng.normal(11.1, 2.35, num_rows), 0, 17)
    whole = rng.random(num_rows) < 0.58
    texts = pa.array(np.where(whole, np.round(numbers), numbers)).cast(pa.string())
    return pc.replace_substring_regex(texts, r"\.0$", "")


def challenge_batches(num_rows: int, seed: int = 0) -> Iterator[pa.Table]:
    """Give `sequence` and `expression` in blocks; a shorter table is the beginning of a longer one."""
    for start in range(0, num_rows, _BLOCK_ROWS):
        rows = min(_BLOCK_ROWS, num_rows - start)
        columns = [make(_BLOCK_ROWS, seed + start).slice(0, rows) for make in (random_sequences, random_values)]
        yield pa.table(columns, names=["sequence", "expression"])


def write_challenge_table(path: str | Path, num_rows: int = CHALLENGE_ROWS, seed: int = 0) -> None:
    """Write a random .tsv without header in the shape of the challenge's training file, about 120 bytes a row."""
    options = pyarrow.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with new_file(path) as partial, pa.OSFile(str(partial), "wb") as stream:
        for table in challenge_batches(num_rows, seed):
            pyarrow.csv.write_csv(table, stream, options)


def run_preparation(results: Results, rows: int, folder: Path) -> None:
    """Time `scripts/prepare_data.py` on tables of 10,000 rows to `rows`, and on the largest one compressed."""
    for size in [*(size for size in (10_000, 100_000, 1_000_000) if size < rows), rows]:
        table = folder / f"{size}.tsv"
        write_challenge_table(table, size)
        seconds, peak = _prepare(table, folder / "prepared")
        results.row("preparation", table="TSV", rows=size, seconds=seconds, peak_memory_mb=peak)
    results.figure(f"preparation of {rows:,} rows, TSV", rows / seconds, "rows/s", shown=True)
    results.figure(f"preparation of {rows:,} rows, TSV, peak resident memory", peak, "MB", shown=True)
    with open(table, "rb") as plain, gzip.open(f"{table}.gz", "wb", compresslevel=1) as compressed:
        shutil.copyfileobj(plain, compressed, 1 << 22)
    seconds, peak = _prepare(Path(f"{table}.gz"), folder / "prepared-gz")
    results.row("preparation", table="TSV.gz", rows=rows, seconds=seconds, peak_memory_mb=peak)
    results.figure(f"preparation of {rows:,} rows, TSV.gz", rows / seconds, "rows/s")
    differing = sum(
        not _load(folder / "prepared", split).equals(_load(folder / "prepared-gz", split))
        for split in ("train", "validation")
    )
    results.check("splits that differ between TSV and TSV.gz", differing, 0)
    for path in [*folder.glob("*.tsv*"), folder / "prepared-gz"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _prepare(table: Path, output: Path) -> tuple[float, float]:
    """Seconds and peak resident memory (MB) of the command line, Python's start included."""
    shutil.rmtree(output, ignore_errors=True)
    return run_script("prepare_data", "--source", str(table), "--output", str(output))


def _load(folder: Path, split: str) -> pa.Table:
    return datasets.load_from_disk(str(folder / split)).data.table


def run_tokenizer(results: Results, rows: int, _: Path) -> None:
    """Time the tokenizer on a list of strings and through `datasets.Dataset.map`, on one core."""
    tokenizer = KmerTokenizer()
    count = min(rows, 10_000)
    texts = random_sequences(count).to_pylist()
    table = datasets.Dataset(pa.table({"sequence": random_sequences(10 * count)}))
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
                results.figure(f"shuffled reading, 1 worker, masks {strands}", speed, "sequences/s", shown=True)
            del iterator
