"""Turn a promoter table into a memory-mapped Arrow data set, with a report that accounts for every row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict
from datasets.table import MemoryMappedTable

from modeling_macaron.atomic import new_folder
from modeling_macaron.data.report import Tally, describe_rows, describe_stored
from modeling_macaron.data.rows import EncodedRows, encode_rows, explain_row
from modeling_macaron.data.splits import SPLITS, Division, KeptRows, StoredRows
from modeling_macaron.io.streams import progress_bar, read_ahead
from modeling_macaron.io.tables import PromoterTable, TableBatch
from tokenization import KmerTokenizer

_KEPT_FILE = "kept.arrow"
_BATCH_ROWS = 65_536


def prepare_dataset(
    table: PromoterTable,
    output_dir: str | Path,
    *,
    tokenizer: KmerTokenizer | None = None,
    strict: bool = False,
    overwrite: bool = False,
    extra_columns: Sequence[str] | None = None,
    verbose: bool = False,
    **division: object,
) -> dict:
    """Encode a table in one pass and write a data set for `datasets.load_from_disk`.

    The splits `train`, `validation` and, if the table has it, `test` hold `input_ids` (strand_length uint8, the padded
    forward strand), `labels` (float32, assay units), `row` (int64, line, record or row of the source), `cluster`
    (unless rows are split one by one), `count` (int64, only with `average_duplicates`), `weight` (float32, only with
    `weight_column`) and the extra columns. `report.json` beside them accounts for every row. After an error nothing is
    written. Memory grows by about 70 bytes per row, and the search for near-copies takes up to 0.7 GB more.

    Parameters
    ----------
    table : PromoterTable
        The source, with a value column. A split column assigns each row to a split (`train`; `validation`, `valid`,
        `val` or `dev`; `test`).
    output_dir : str or Path
        Folder to write.
    tokenizer : KmerTokenizer, optional
        How sequences are trimmed and padded; default: `KmerTokenizer()`.
    strict : bool
        Raise for the first rejected row instead of counting it. Sequences that are too long are dropped in either case.
    overwrite : bool
        Replace an existing data set.
    extra_columns : sequence of str, optional
        Further columns of the table to keep. Default: `table.extra_columns`.
    verbose : bool
        Show progress bars.
    **division
        Options that divide, average and weight rows: fields of `modeling_macaron.data.splits.Division`.

    Returns
    -------
    dict
        The report; `expression_mean` and `expression_std` (population) are those of the training rows.

    Raises
    ------
    ValueError
        If an option is out of range, the source is damaged, a split is unknown or empty, a cluster is missing, a weight
        is not a positive number, or the training values do not vary. With `strict`, for the first rejected row.
    FileExistsError
        If `output_dir` exists and may not be replaced.
    """
    division = Division(**division)
    extra_columns = table.extra_columns if extra_columns is None else tuple(extra_columns)
    division.check(extra_columns)
    if table.columns.value is None:
        raise ValueError(f"{table.path}: no value column is known; name it with --value_column")
    tokenizer = KmerTokenizer() if tokenizer is None else tokenizer
    tally = Tally()
    with new_folder(output_dir, overwrite=overwrite, inputs=(table.path,)) as folder:
        bar = progress_bar("rows", table.num_rows, verbose=verbose)
        with bar, KeptRows(folder / _KEPT_FILE, table, division, extra_columns) as kept:
            for batch in read_ahead(table):
                rows = encode_rows(batch.table, table, tokenizer)
                if strict:
                    _reject_first(table, batch, rows, tokenizer)
                tally.add(table, batch, rows, tokenizer)
                kept.add(batch, rows)
                bar.update(len(batch.numbers))
        if strict:
            table.refuse_malformed()
        report = describe_rows(table, tally, tokenizer)
        stored = kept.divide(verbose)
        report |= describe_stored(stored, division, table)
        _write_splits(folder, stored, report["splits"], verbose)
        del stored  # some systems cannot remove a mapped file
        (folder / _KEPT_FILE).unlink()
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _reject_first(table: PromoterTable, batch: TableBatch, rows: EncodedRows, tokenizer: KmerTokenizer) -> None:
    """Raise for the first rejected row of a batch, or a malformed line before it."""
    problems = [""] * len(batch.numbers)
    for index in rows.rejected[:1]:
        problems[index] = explain_row(batch.table, rows, int(index), table, tokenizer)
    table.refuse_problems(batch.numbers, problems)


def _write_splits(folder: Path, stored: StoredRows, splits: dict, verbose: bool) -> None:
    """Write rows for `datasets.load_from_disk`."""
    split_of = np.full(stored.table.num_rows, -1, np.int8)
    split_of[stored.positions] = stored.splits
    parts = DatasetDict()
    for split, about in splits.items():
        path, first = folder / f"{split}.arrow", 0
        with pa.ipc.new_stream(str(path), stored.table.schema) as writer:
            for batch in stored.table.to_batches(_BATCH_ROWS):
                is_chosen = split_of[first : first + batch.num_rows] == SPLITS.index(split)
                writer.write_batch(batch.filter(pa.array(is_chosen)))
                first += batch.num_rows
        parts[split] = Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=about["fingerprint"])
    hide_progress = not verbose and not datasets.are_progress_bars_disabled()
    if hide_progress:
        datasets.disable_progress_bars()
    try:
        parts.save_to_disk(folder)
    finally:
        if hide_progress:
            datasets.enable_progress_bars()
    for split in splits:
        (folder / f"{split}.arrow").unlink()
