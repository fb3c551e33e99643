"""Turn a promoter table into a memory-mapped Arrow data set with a report of what became of every row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import DatasetInfo, Features, List, Value

from modeling_macaron.atomic import new_folder
from modeling_macaron.overlap import read_ahead
from modeling_macaron.progress import progress_bar
from modeling_macaron.tables import PromoterTable, TableBatch
from modeling_macaron.training.report import SPLITS, Tally, build_report
from modeling_macaron.training.rows import EncodedRows, describe_refused, encode_rows, hash_strands
from tokenization import KmerTokenizer

_SPLIT_NAMES = {"train": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2}
_OWN_COLUMNS = ("input_ids", "labels", "row")


def prepare_dataset(
    table: PromoterTable,
    output_dir: str | Path,
    *,
    tokenizer: KmerTokenizer | None = None,
    validation_fraction: float = 0.05,
    seed: int = 0,
    strict: bool = False,
    overwrite: bool = False,
    extra_columns: Sequence[str] | None = None,
    verbose: bool = False,
) -> dict:
    """Encode a table in one pass and write it as `datasets.load_from_disk` reads it.

    The splits `train`, `validation` and, where the table names it, `test` hold `input_ids` (strand_length uint8, the
    padded forward strand), `labels` (float32, assay units), `row` (int64, line, record or row of the source) and the
    extra columns. `report.json` beside them tells what became of every row. Nothing is written unless all goes well.

    Parameters
    ----------
    table : PromoterTable
        The source, with a value column. Its split column, if any, says where each row goes (`train`; `validation`,
        `valid`, `val` or `dev`; `test`); else rows are divided by a seeded hash of their letters, so that identical
        sequences never stand on both sides.
    output_dir : str or Path
        The folder to be written.
    tokenizer : KmerTokenizer, optional
        How sequences are trimmed and padded; default: `KmerTokenizer()`.
    validation_fraction : float
        Share of the rows for validation, between 0 and 1, where the table has no split column.
    seed : int
        Seed of that division, 0 or more.
    strict : bool
        Stop at the first row that is refused instead of counting it. A sequence that is too long is dropped either way.
    overwrite : bool
        Replace a data set that stands in `output_dir`.
    extra_columns : sequence of str, optional
        Columns of the table to keep beside; default: those that the table itself names.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    dict
        The report; `expression_mean` and `expression_std` (population) are those of the training rows.

    Raises
    ------
    ValueError
        On options that are out of range, a damaged source, an unknown split, or when a split or the spread of the
        training values is empty; with `strict` on the first row that is refused.
    FileExistsError
        If `output_dir` exists and may not be replaced.
    """
    _check_options(table, validation_fraction, seed)
    tokenizer = KmerTokenizer() if tokenizer is None else tokenizer
    extra_columns = table.extra_columns if extra_columns is None else tuple(extra_columns)
    settings = {"seed": seed, "validation_fraction": None if table.columns.split else validation_fraction}
    tally = Tally()
    with new_folder(output_dir, overwrite=overwrite) as folder, _DatasetWriter(folder) as writer:
        for batch in _with_progress(table, verbose):
            rows = encode_rows(batch.table, table, tokenizer)
            if strict:
                _refuse_first(table, batch, rows, tokenizer)
            _count(tally, table, batch, rows, tokenizer)
            kept = np.flatnonzero(rows.reasons == 0)
            hashes = hash_strands(rows.ids[kept], seed)
            split_ids = _divide(table, batch, hashes, kept, validation_fraction)
            stored = _stored_table(batch, rows, extra_columns, tokenizer.strand_length)
            for index, split in enumerate(SPLITS):
                chosen = split_ids == index
                writer.write(split, stored, kept[chosen])
                tally.add_kept(split, hashes[chosen], rows.labels[kept[chosen]])
        if strict and table.malformed:
            raise _strict_error(table, *table.malformed[0])
        report = build_report(table, tally, tokenizer, settings)
        writer.finish(report["splits"])
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _check_options(table: PromoterTable, validation_fraction: float, seed: int) -> None:
    if table.columns.value is None:
        raise ValueError(f"{table.path}: no value column is known; name it with --value_column")
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must be between 0 and 1, got {validation_fraction}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")


def _with_progress(table: PromoterTable, verbose: bool) -> Iterator[TableBatch]:
    with progress_bar("rows", table.num_rows, verbose=verbose) as bar:
        for batch in read_ahead(table):
            yield batch
            bar.update(len(batch.numbers))


def _count(tally: Tally, table: PromoterTable, batch: TableBatch, rows: EncodedRows, tokenizer: KmerTokenizer) -> None:
    """Count a batch, and remember the first rows that are refused."""
    tally.add_read(rows)
    for index in rows.refused[: tally.room_for_refused].tolist():
        reason, detail = describe_refused(batch.table, rows, index, table, tokenizer)
        tally.first_refused.append((int(batch.numbers[index]), reason, detail))


def _refuse_first(table: PromoterTable, batch: TableBatch, rows: EncodedRows, tokenizer: KmerTokenizer) -> None:
    """Raise for the first row of a batch that is refused, or a malformed line before it."""
    refused = rows.refused
    number = int(batch.numbers[refused[0] if refused.size else -1])
    if table.malformed and table.malformed[0][0] < number:
        raise _strict_error(table, *table.malformed[0])
    if refused.size:
        reason, detail = describe_refused(batch.table, rows, int(refused[0]), table, tokenizer)
        raise _strict_error(table, number, f"{reason}: {detail}")


def _strict_error(table: PromoterTable, number: int, reason: str) -> ValueError:
    return table.error_at(number, f"{reason}; nothing was written")


def _divide(
    table: PromoterTable, batch: TableBatch, hashes: np.ndarray, kept: np.ndarray, validation_fraction: float
) -> np.ndarray:
    """Index into `SPLITS` of each row that is kept, by the split column or by the hash."""
    if table.columns.split is None:
        return (hashes < np.uint64(validation_fraction * 2**64)).astype(np.int64)
    texts = pc.utf8_trim_whitespace(batch.table[table.columns.split].cast(pa.large_string()))
    found = pc.index_in(pc.utf8_lower(texts), value_set=pa.array(list(_SPLIT_NAMES), pa.large_string()))
    unknown = np.flatnonzero(found.is_null().to_numpy())
    if unknown.size:
        value, number = texts[int(unknown[0])].as_py(), batch.numbers[unknown[0]]
        raise ValueError(
            f"{table.path}, {table.unit} {number}: split {value!r} in column {table.columns.split!r} is unknown; "
            "expected train, validation (valid, val, dev) or test"
        )
    return np.array(list(_SPLIT_NAMES.values()))[found.to_numpy()[kept]]


def _stored_table(batch: TableBatch, rows: EncodedRows, extra_columns: Sequence[str], strand_length: int) -> pa.Table:
    """All rows of a batch with the columns to be stored."""
    columns = {
        "input_ids": pa.FixedSizeListArray.from_arrays(pa.array(rows.ids.reshape(-1)), strand_length),
        "labels": pa.array(rows.labels),
        "row": pa.array(batch.numbers),
    }
    for name in extra_columns:
        if name in _OWN_COLUMNS:
            raise ValueError(f"extra column {name!r} has the name of a column of the data set; rename it")
        if name not in batch.table.column_names:
            raise ValueError(f"extra column {name!r} is not there; the columns are {batch.table.column_names}")
        columns[name] = batch.table[name]
    return pa.table(columns)


class _DatasetWriter:
    """Write splits batch by batch into the layout that `datasets.load_from_disk` reads."""

    _file_name = "data-00000-of-00001.arrow"

    def __init__(self, folder: Path):
        self.folder = folder
        self.features: Features | None = None
        self.writers: dict[str, pa.RecordBatchStreamWriter] = {}

    def __enter__(self) -> _DatasetWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        while self.writers:
            self.writers.popitem()[1].close()

    def write(self, split: str, rows: pa.Table, indices: np.ndarray) -> None:
        """Append the rows with these indices to a split."""
        if not len(indices):
            return
        if self.features is None:
            length = rows.schema.field("input_ids").type.list_size
            extra = Features.from_arrow_schema(rows.drop_columns(list(_OWN_COLUMNS)).schema)
            own = {"input_ids": List(Value("uint8"), length=length), "labels": Value("float32"), "row": Value("int64")}
            self.features = Features(own | extra)
        if split not in self.writers:
            (self.folder / split).mkdir()
            path = self.folder / split / self._file_name
            self.writers[split] = pa.ipc.new_stream(str(path), self.features.arrow_schema)
        self.writers[split].write_table(rows.take(pa.array(indices)).cast(self.features.arrow_schema))

    def finish(self, splits: dict[str, dict]) -> None:
        """Write what `datasets` wants to know beside the rows."""
        for split in splits:
            state = {
                "_data_files": [{"filename": self._file_name}],
                "_fingerprint": splits[split]["fingerprint"],
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": split,
            }
            (self.folder / split / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
            DatasetInfo(features=self.features).write_to_directory(str(self.folder / split))
        names = json.dumps({"splits": list(splits)})
        (self.folder / "dataset_dict.json").write_text(names, encoding="utf-8")
