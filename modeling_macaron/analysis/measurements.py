"""Read measured promoters, pairs of them, and files of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from modeling_macaron.io.delimited import find_layout, open_bytes
from modeling_macaron.io.tables import READ_DELIMITERS, SEQUENCE_NAMES, VALUE_NAMES, Columns, find_columns


class Measurements(NamedTuple):
    """Measured promoters.

    Attributes
    ----------
    rows : pandas.DataFrame
        `row_id`, `activity` and the other columns of the table.
    pairs : pandas.DataFrame or None
        Columns `kind`, `alt`, `ref` (positions in `rows`, from 0) and optionally `public`.
    split : str or None
        Split of the rows; None for the whole table.
    """

    rows: pd.DataFrame
    pairs: pd.DataFrame | None
    split: str | None


def read_frame(path: str | Path, columns: tuple[str, ...], sequence_column: str | None = None) -> pd.DataFrame:
    """Read a small table with a header (`.parquet`, `.xlsx`, `.csv`, `.tsv`, `.txt`, the text also as `.gz`).

    Sequences such as NA stay text. Raises if the file is missing, unreadable, empty or lacks one of `columns`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif suffix in READ_DELIMITERS:
            known = {*SEQUENCE_NAMES, *VALUE_NAMES, *columns}
            layout = find_layout(path, "detect", READ_DELIMITERS[suffix], known)
            texts = [one for one in layout.names if one == sequence_column or one.strip().lower() in SEQUENCE_NAMES]
            decimal = "," if layout.decimal_comma_columns(is_sheet=suffix == ".xlsx") else "."
            with open_bytes(path, "detect") as stream:
                frame = pd.read_csv(stream, sep=layout.delimiter, decimal=decimal)
            with open_bytes(path, "detect") as stream:  # pandas would read sequences such as NA as NaN
                options = {"usecols": texts, "dtype": str, "keep_default_na": False}
                frame[texts] = pd.read_csv(stream, sep=layout.delimiter, **options)[texts]
        else:
            raise ValueError(
                "unknown kind of table; .parquet, .xlsx, .csv, .tsv and .txt are known, also .csv.gz and so on"
            )
    except (ValueError, OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(reason if str(path) in reason else f"{path}: {reason}") from error
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise ValueError(f"{path}: the table has no row")
    return frame


def first_values(values: pd.Series | np.ndarray) -> str:
    """Write the first five values, for messages."""
    shown = ", ".join(str(value) for value in values[:5])
    return shown + (", ..." if len(values) > 5 else "")


def _read_prepared(folder: str | Path) -> pd.DataFrame:
    """Rows of a data set folder: sequences with their flanks, values, splits and clusters."""
    from datasets import load_from_disk

    from .baselines import read_folder, read_splits

    letters = np.frombuffer(b"ACGTN", np.uint8)
    frames = []
    for split in read_splits(folder):
        for ids, values in read_folder(folder, split):
            sequences = [row.tobytes().decode().strip("N") for row in letters[ids]]
            frames.append(pd.DataFrame({"sequence": sequences, "activity": values, "split": split}))
    rows = pd.concat(frames, ignore_index=True)
    data = load_from_disk(str(folder))
    if "cluster" in data["train"].column_names:
        rows["cluster"] = pd.concat(
            [pd.Series(data[split]["cluster"][:]) for split in rows["split"].unique()]
        ).to_numpy()
    return rows


def _check_row_ids(row_ids: pd.Series, path: str | Path) -> None:
    if row_ids.isna().any():
        raise ValueError(f"{path}: {int(row_ids.isna().sum())} rows have no row_id")
    repeated = row_ids[row_ids.duplicated()].unique()
    if len(repeated):
        raise ValueError(
            f"{path}: {len(repeated)} row_ids occur more than once ({first_values(repeated)}); each must be unique"
        )


def _check_numbers(values: pd.Series, path: str | Path) -> None:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        first = values.iloc[bad[0]]
        advice = "decimal commas?" if "," in str(first) else "remove these rows first"
        raise ValueError(
            f"{path}: {bad.size} of {len(values)} rows have no finite number in column {values.name} (the first is row "
            f"{bad[0] + 1}, counted from 1 without a header: {first}); {advice}"
        )


def _locate_pairs(path: str | Path, row_ids: pd.Series) -> pd.DataFrame:
    """Read pairs and turn their row_ids into positions."""
    frame = read_frame(path, ("kind", "alt_row_id", "ref_row_id"))
    index = pd.Index(row_ids)
    alt, ref = (index.get_indexer(frame[name]) for name in ("alt_row_id", "ref_row_id"))
    unknown = (alt < 0) | (ref < 0)
    if unknown.any():
        names = frame.loc[alt < 0, "alt_row_id"].tolist() + frame.loc[ref < 0, "ref_row_id"].tolist()
        raise ValueError(
            f"{path}: {int(unknown.sum())} of {len(frame)} pairs name rows that are not in the table "
            f"(row_id {first_values(pd.unique(np.array(names)))}); give the pairs of this table"
        )
    pairs = pd.DataFrame({"kind": frame["kind"].astype(object), "alt": alt, "ref": ref})
    return pairs.assign(public=frame["public"].to_numpy()) if "public" in frame.columns else pairs


def _restrict(measurements: Measurements, split: str, path: str | Path) -> Measurements:
    """Keep the rows of one split, and the pairs with both ends in it."""
    rows, pairs, _ = measurements
    if "split" not in rows.columns:
        raise ValueError(f"{path}: no column split, so --split {split} cannot be chosen")
    inside = (rows["split"] == split).to_numpy()
    if not inside.any():
        raise ValueError(f"{path}: no row of split {split}; it has {', '.join(map(str, rows['split'].unique()))}")
    if pairs is not None:
        position = np.cumsum(inside) - 1
        kept = pairs[inside[pairs["alt"]] & inside[pairs["ref"]]]
        pairs = kept.assign(alt=position[kept["alt"]], ref=position[kept["ref"]])
    return Measurements(rows[inside].reset_index(drop=True), pairs, split)


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
        File as for `read_frame`, with columns of sequences and values under their usual names; `row_id`, needed for
        pairs and files of predictions (default: the row, from 0); optionally the flags `high`, `low`, `yeast`,
        `random`, `challenging`, `leaderboard_public`, and `split`. Or a data set folder of scripts/prepare_data.py.
    pairs : str or Path, optional
        Columns `kind`, `alt_row_id`, `ref_row_id` and optionally `public`.
    split : str, optional
        Keep only the rows of this split, and the pairs with both ends in it.
    sequence_column, value_column : str, optional
        Names of the columns of sequences and values.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file or column is missing or ambiguous, row_ids are missing or repeated, values are not finite, pairs name
        unknown rows, or the split does not exist.
    """
    rows = _read_prepared(table) if Path(table).is_dir() else read_frame(table, (), sequence_column)
    given = Columns(sequence_column, value_column)
    columns, _ = find_columns(
        [str(name) for name in rows.columns], given, str(table), require_value=True,
        texts_of=lambda name: rows[name].head(100).dropna().astype(str).tolist(),
    )  # fmt: skip
    _check_numbers(rows[columns.value], table)
    rows = rows.rename(columns={columns.sequence: "sequence", columns.value: "activity"})
    rows["sequence"] = rows["sequence"].fillna("")
    if "row_id" not in rows.columns:
        rows["row_id"] = np.arange(len(rows))
    _check_row_ids(rows["row_id"], table)
    located = None if pairs is None else _locate_pairs(pairs, rows["row_id"])
    measurements = Measurements(rows, located, None)
    return measurements if split is None else _restrict(measurements, split, table)


def read_predictions(path: str | Path, row_ids: pd.Series) -> tuple[np.ndarray, int]:
    """Read predictions (rows,) in the order of `row_ids`, and count those of other rows.

    The table has the columns `row_id` and `prediction` (or `predicted_expression`). Raises a `ValueError` if row_ids
    are repeated, or rows lack a finite prediction.
    """
    frame = read_frame(path, ("row_id",))
    names = [name for name in ("prediction", "predicted_expression") if name in frame.columns]
    if len(names) != 1:
        raise ValueError(f"{path}: one column prediction (or predicted_expression) is needed, it has {len(names)}")
    _check_row_ids(frame["row_id"], path)
    where = pd.Index(frame["row_id"]).get_indexer(row_ids)
    missing = row_ids[where < 0]
    if len(missing):
        raise ValueError(
            f"{path}: {len(missing)} of {len(row_ids)} rows have no prediction (row_id {first_values(missing)}); "
            "every row of the table needs one"
        )
    chosen = frame[names[0]].iloc[where]
    _check_numbers(chosen, path)
    return pd.to_numeric(chosen).to_numpy(np.float64), len(frame) - len(row_ids)
