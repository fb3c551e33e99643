"""Read measured promoters, pairs of them, and files of predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import load_from_disk

from modeling_macaron.dna import spell
from modeling_macaron.io.tables import PromoterTable, open_table


class Measurements(NamedTuple):
    """Measured promoters.

    Attributes
    ----------
    rows : pandas.DataFrame
        `row_id`, `sequence`, `activity` and the other columns of the table.
    pairs : pandas.DataFrame or None
        Columns `kind`, `alt`, `ref` (positions in `rows`, from 0) and optionally `public`.
    split : str or None
        Split of the rows; None for the whole table.
    """

    rows: pd.DataFrame
    pairs: pd.DataFrame | None
    split: str | None


def metric_inputs(measurements: Measurements) -> dict:
    """Arguments of `dream_score` and `split_categories`, besides the predictions."""
    from .dream_promoter.dream_promoter import SUBSETS  # training reads folders without the library `evaluate`

    rows = measurements.rows
    return {
        "references": rows["activity"].to_numpy(np.float64),
        "subsets": {name: rows[name].to_numpy() for name in SUBSETS if name in rows.columns},
        "pairs": measurements.pairs,
        "public": rows["leaderboard_public"].to_numpy() if "leaderboard_public" in rows.columns else None,
    }


def _read_table(table: PromoterTable, sequence_column: str | None = None) -> pd.DataFrame:
    """Read all rows; other text columns that hold only numbers, or only True and False, are converted."""
    batches = [
        pa.table({name: table.values_of(batch.table, name) for name in batch.table.column_names}).to_pandas()
        for batch in table
    ]
    table.refuse_malformed()
    if not sum(map(len, batches)):
        raise ValueError(f"{table.path} has no rows")
    frame = pd.concat(batches, ignore_index=True)
    for name in frame.columns:
        if name != sequence_column and pd.api.types.is_string_dtype(frame[name]):
            try:
                frame[name] = pd.to_numeric(frame[name])
            except ValueError:
                words = frame[name].str.lower()
                frame[name] = words == "true" if words.isin(["true", "false"]).all() else frame[name]
    return frame


def read_frame(path: str | Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a table of any kind that `open_table` knows. Raises a `ValueError` if it lacks one of `columns`."""
    frame = _read_table(open_table(path, sequence_column=columns[0]))
    if missing := [name for name in columns if name not in frame.columns]:
        raise ValueError(f"{path} has no column {', '.join(missing)}: its columns are {', '.join(frame.columns)}")
    return frame


def read_prepared(folder: str | Path) -> Iterator[pd.DataFrame]:
    """Yield the rows of a folder of prepare_data.py: `sequence`, `activity`, `split` and, if present, `cluster`.

    Flanks are added again if most rows had them. Raises a `FileNotFoundError` for any other folder.
    """
    path = Path(folder, "report.json")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a data set of scripts/prepare_data.py: report.json is missing")
    report = json.loads(path.read_text(encoding="utf-8"))
    has_flanks = 2 * report["rows_trimmed"] > report["rows_read"]
    flank5, flank3 = (report["tokenizer"][name] if has_flanks else "" for name in ("flank5", "flank3"))
    for split, data in load_from_disk(str(folder)).items():
        for table in data.with_format("arrow").iter(65_536):
            strands = table["input_ids"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
            texts = [spell(row).strip("N") for row in strands]
            frame = table.drop_columns(["input_ids", "labels"]).to_pandas()
            yield frame.assign(
                sequence=[flank5 + text + flank3 for text in texts],
                activity=table["labels"].to_numpy().astype(np.float64),
                split=split,
            )


def _check_row_ids(row_ids: pd.Series, path: str | Path) -> None:
    bad = row_ids[row_ids.isna() | row_ids.duplicated()].tolist()
    if bad:
        raise ValueError(f"{path}: {len(bad)} row_ids are missing or occur more than once: {bad[:5]}")


def _to_numbers(values: pd.Series, path: str | Path, name: str) -> np.ndarray:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        raise ValueError(
            f"{path}: {bad.size} of {len(values)} rows have no finite number in column {name} (the first is row "
            f"{bad[0] + 1}: {values.iloc[bad[0]]}); remove these rows"
        )
    return numbers


def _read_pairs(path: str | Path, row_ids: pd.Series, chosen: pd.Series) -> pd.DataFrame:
    """Read pairs; keep those with both ends among the chosen rows, by position."""
    frame = read_frame(path, ("kind", "alt_row_id", "ref_row_id"))
    ends = frame[["alt_row_id", "ref_row_id"]]
    unknown = ends[~ends.isin(row_ids.to_numpy()).all(axis=1)].to_numpy().tolist()
    if unknown:
        raise ValueError(
            f"{path}: {len(unknown)} of {len(ends)} pairs name rows that are not in the table: {unknown[:5]}"
        )
    pairs = frame[["kind", *(["public"] if "public" in frame.columns else [])]].copy()
    index = pd.Index(chosen)
    pairs["alt"], pairs["ref"] = (index.get_indexer(ends[name]) for name in ends)
    return pairs[(pairs["alt"] >= 0) & (pairs["ref"] >= 0)].reset_index(drop=True)


def load_measurements(
    table: str | Path,
    pairs: str | Path | None = None,
    *,
    split: str | None = None,
    sequence_column: str | None = None,
    value_column: str | None = None,
) -> Measurements:
    """Read a measured table and, optionally, pairs of its rows.

    Parameters
    ----------
    table : str or Path
        File for `open_table` with a column of values, or a data set folder of scripts/prepare_data.py. Optional columns
        are `row_id` (default: the position, from 0), to which pairs and predictions refer, `split`, `cluster`, and the
        flags `high`, `low`, `yeast`, `random`, `challenging` and `leaderboard_public`.
    pairs : str or Path, optional
        Columns `kind`, `alt_row_id`, `ref_row_id` and optionally `public`.
    split : str, optional
        Keep only the rows of this split, and the pairs with both ends in it.
    sequence_column, value_column : str, optional
        Names of the columns of sequences and values.

    Returns
    -------
    Measurements

    Raises
    ------
    FileNotFoundError, ValueError
        If a file or column is missing or ambiguous, row_ids are missing or repeated, values are not finite, pairs name
        unknown rows, or the split does not exist.
    """
    if Path(table).is_dir():
        rows, value = pd.concat(read_prepared(table), ignore_index=True), "activity"
    else:
        source = open_table(table, sequence_column=sequence_column, value_column=value_column, require_value=True)
        rows, value = _read_table(source, source.columns.sequence), source.columns.value
        rows["sequence"] = rows[source.columns.sequence].fillna("")
    rows["activity"] = _to_numbers(rows[value], table, value)
    if "row_id" not in rows.columns:
        rows["row_id"] = np.arange(len(rows))
    _check_row_ids(rows["row_id"], table)
    row_ids = rows["row_id"]
    if split is not None:
        names = rows["split"].astype(str) if "split" in rows.columns else pd.Series(dtype=str)
        if not (names == split).any():
            raise ValueError(f"{table}: no row of split {split}; it has {', '.join(names.unique()) or 'no splits'}")
        rows = rows[names == split].reset_index(drop=True)
    return Measurements(rows, None if pairs is None else _read_pairs(pairs, row_ids, rows["row_id"]), split)


def read_predictions(path: str | Path, row_ids: pd.Series) -> tuple[np.ndarray, int]:
    """Read predictions (rows,) in the order of `row_ids`, and count those of other rows.

    The table has the columns `row_id` and `prediction` (or `predicted_expression`). Raises a `ValueError` if row_ids
    are repeated, or rows lack a finite prediction.
    """
    frame = read_frame(path, ("row_id",))
    names = [name for name in ("prediction", "predicted_expression") if name in frame.columns]
    if len(names) != 1:
        raise ValueError(f"{path} needs one column prediction (or predicted_expression), it has {len(names)}")
    _check_row_ids(frame["row_id"], path)
    where = pd.Index(frame["row_id"]).get_indexer(row_ids)
    missing = row_ids[where < 0].tolist()
    if missing:
        raise ValueError(f"{path}: {len(missing)} of {len(row_ids)} rows have no prediction: row_id {missing[:5]}")
    return _to_numbers(frame[names[0]].iloc[where], path, names[0]), len(frame) - len(row_ids)
