"""Turn a promoter table into a memory-mapped Arrow data set, with a report that accounts for every row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets.table import MemoryMappedTable

from modeling_macaron.data.clusters import DEFAULT_KMER, MAX_KMER
from modeling_macaron.data.report import Tally, describe_rows, describe_stored
from modeling_macaron.data.rows import EncodedRows, describe_refused, encode_rows
from modeling_macaron.data.splits import SPLITS, Division, KeptRows
from modeling_macaron.io.atomic import new_folder
from modeling_macaron.io.streams import progress_bar, read_ahead
from modeling_macaron.io.tables import PromoterTable, TableBatch
from tokenization import KmerTokenizer

_KEPT_FILE = "kept.arrow"


def prepare_dataset(
    table: PromoterTable,
    output_dir: str | Path,
    *,
    tokenizer: KmerTokenizer | None = None,
    split_by: str = "cluster",
    cluster_kmer: int = DEFAULT_KMER,
    cluster_column: str | None = None,
    weight_column: str | None = None,
    average_duplicates: bool = False,
    validation_fraction: float = 0.05,
    seed: int = 0,
    strict: bool = False,
    overwrite: bool = False,
    extra_columns: Sequence[str] | None = None,
    details: dict | None = None,
    verbose: bool = False,
) -> dict:
    """Encode a table in one pass and write it as `datasets.load_from_disk` reads it.

    The splits `train`, `validation` and, where the table names it, `test` hold `input_ids` (strand_length uint8, the
    padded forward strand), `labels` (float32, assay units), `row` (int64, line, record or row of the source), `cluster`
    (unless rows are split one by one), `count` (int64, only with `average_duplicates`), `weight` (float32, only with
    `weight_column`) and the extra columns.
    `report.json` beside them accounts for every row. Nothing is written unless all goes well. Memory grows by some 70
    bytes for each row of 80 nt; the search for near-copies takes up to 0.7 GB more.

    Parameters
    ----------
    table : PromoterTable
        The source, with a value column. Its split column, if any, says where each row goes (`train`; `validation`,
        `valid`, `val` or `dev`; `test`).
    output_dir : str or Path
        The folder to be written.
    tokenizer : KmerTokenizer, optional
        How sequences are trimmed and padded; default: `KmerTokenizer()`.
    split_by : str
        `"cluster"`: near-copies stay on one side. Two rows are in one cluster if their variable parts are equal or
        reverse complements, or have a common stretch of `cluster_kmer` nt on either strand, and so are the near-copies
        of near-copies. N matches nothing. `"row"`: only identical sequences stay on one side.
    cluster_kmer : int
        Length of the stretch, 1 to 32 nt.
    cluster_column : str, optional
        Column of the table with clusters of its own, which are used instead.
    weight_column : str, optional
        Column of the table with the weight of each row in the training loss, a positive number. Mean and standard
        deviation of the expression, and validation, do not use it.
    average_duplicates : bool
        Store rows with equal variable parts (of one split, where the table names splits) as one: the first, with the
        mean of their values and their number in the column `count`. With weights, it has the weighted mean and the sum
        of the weights.
    validation_fraction : float
        Share of the rows for validation, between 0 and 1, where the table has no split column.
    seed : int
        Seed of that division, 0 or more. The order of the rows does not matter.
    strict : bool
        Stop at the first row that is rejected instead of counting it. A sequence that is too long is dropped either
        way.
    overwrite : bool
        Replace a data set that stands in `output_dir`.
    extra_columns : sequence of str, optional
        Columns of the table to keep beside; default: those that the table itself names.
    details : dict, optional
        Extra entries for the report.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    dict
        The report; `expression_mean` and `expression_std` (population) are those of the training rows.

    Raises
    ------
    ValueError
        On options that are out of range, a damaged source, an unknown split, a row without a cluster of its own or
        with a weight that is not a positive number, or when a split or the spread of the training values is empty; with
        `strict` on the first row that is rejected.
    FileExistsError
        If `output_dir` exists and may not be replaced.
    """
    division = Division(
        split_by, cluster_kmer, cluster_column, average_duplicates, validation_fraction, seed, weight_column
    )
    _check_division(table, division)
    tokenizer = KmerTokenizer() if tokenizer is None else tokenizer
    extra_columns = table.extra_columns if extra_columns is None else tuple(extra_columns)
    tally = Tally()
    with new_folder(output_dir, overwrite=overwrite, inputs=(table.path,)) as folder:
        with KeptRows(folder / _KEPT_FILE, table, division, extra_columns) as kept:
            for batch in _with_progress(table, verbose):
                rows = encode_rows(batch.table, table, tokenizer)
                if strict:
                    _refuse_first(table, batch, rows, tokenizer)
                _count(tally, table, batch, rows, tokenizer)
                kept.add(batch, rows)
        if strict and table.malformed:
            raise _strict_error(table, *table.malformed[0])
        report = describe_rows(table, tally, tokenizer) | _settings(table, division) | (details or {})
        stored = kept.divide(tokenizer.strand_length, verbose)
        report |= describe_stored(stored, division, table)
        _write_splits(folder, kept.read(stored, tokenizer.strand_length), report["splits"], verbose)
        (folder / _KEPT_FILE).unlink()
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _check_division(table: PromoterTable, division: Division) -> None:
    if table.columns.value is None:
        raise ValueError(f"{table.path}: no value column is known; name it with --value_column")
    if not 0 < division.validation_fraction < 1:
        raise ValueError(f"validation_fraction must be between 0 and 1, got {division.validation_fraction}")
    if division.seed < 0:
        raise ValueError(f"seed must be 0 or more, got {division.seed}")
    if division.split_by not in ("cluster", "row"):
        raise ValueError(f"split_by must be 'cluster' or 'row', got {division.split_by!r}")
    if not 1 <= division.cluster_kmer <= MAX_KMER:
        raise ValueError(f"cluster_kmer must be 1 to {MAX_KMER}, got {division.cluster_kmer}")
    if division.cluster_column is not None and division.split_by == "row":
        raise ValueError("cluster_column is for split_by 'cluster', got 'row'")


def _settings(table: PromoterTable, division: Division) -> dict:
    """How rows were divided, for the report."""
    by_column = table.columns.split is not None
    return {
        "seed": division.seed,
        "validation_fraction": None if by_column else division.validation_fraction,
        "split_by": "column" if by_column else division.split_by,
        "cluster_kmer": division.cluster_kmer if division.split_by == "cluster" else None,
        "cluster_column": division.cluster_column,
        "weight_column": division.weight_column,
        "average_duplicates": division.average_duplicates,
    }


def _with_progress(table: PromoterTable, verbose: bool) -> Iterator[TableBatch]:
    with progress_bar("rows", table.num_rows, verbose=verbose) as bar:
        for batch in read_ahead(table):
            yield batch
            bar.update(len(batch.numbers))


def _count(tally: Tally, table: PromoterTable, batch: TableBatch, rows: EncodedRows, tokenizer: KmerTokenizer) -> None:
    """Count a batch, and remember the first rows that are rejected."""
    tally.add_read(rows)
    for index in rows.refused[: tally.room_for_refused].tolist():
        reason, detail = describe_refused(batch.table, rows, index, table, tokenizer)
        tally.first_refused.append((int(batch.numbers[index]), reason, detail))


def _refuse_first(table: PromoterTable, batch: TableBatch, rows: EncodedRows, tokenizer: KmerTokenizer) -> None:
    """Raise for the first rejected row of a batch, or a malformed line before it."""
    refused = rows.refused
    number = int(batch.numbers[refused[0] if refused.size else -1])
    if table.malformed and table.malformed[0][0] < number:
        raise _strict_error(table, *table.malformed[0])
    if refused.size:
        reason, detail = describe_refused(batch.table, rows, int(refused[0]), table, tokenizer)
        raise _strict_error(table, number, f"{reason}: {detail}")


def _strict_error(table: PromoterTable, number: int, reason: str) -> ValueError:
    return table.error_at(number, f"{reason}; nothing was written")


def _write_splits(folder: Path, batches: Iterator[tuple[pa.Table, np.ndarray]], splits: dict, verbose: bool) -> None:
    """Write rows with their splits as `datasets.load_from_disk` reads them."""
    features, writers = None, {}
    with ExitStack() as stack:
        for rows, indices in batches:
            if features is None:
                length = rows.schema.field("input_ids").type.list_size
                others = Features.from_arrow_schema(rows.drop_columns(["input_ids"]).schema)
                features = Features({"input_ids": List(Value("uint8"), length=length), **others})
            for index in np.unique(indices):
                if index not in writers:
                    stream = pa.ipc.new_stream(str(folder / f"{SPLITS[index]}.arrow"), features.arrow_schema)
                    writers[index] = stack.enter_context(stream)
                writers[index].write_table(rows.filter(pa.array(indices == index)).cast(features.arrow_schema))
    files = {split: str(folder / f"{split}.arrow") for split in splits}
    tables = {split: MemoryMappedTable.from_file(file) for split, file in files.items()}
    data = {split: Dataset(tables[split], fingerprint=splits[split]["fingerprint"]) for split in splits}
    with _datasets_progress(verbose):
        DatasetDict(data).save_to_disk(folder)
    for file in files.values():
        Path(file).unlink()


@contextmanager
def _datasets_progress(verbose: bool) -> Iterator[None]:
    """Hide the progress bars of `datasets` unless they are wanted."""
    if verbose or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
