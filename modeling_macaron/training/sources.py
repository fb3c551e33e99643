"""Find the promoter table that a source names: a file, a data set on the Hub, or the simulation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HTTPError

from modeling_macaron.hub import is_unreachable
from modeling_macaron.tables import (
    TABLE_SUFFIXES,
    Columns,
    PromoterTable,
    TableBatch,
    find_columns,
    number_batches,
    open_table,
)
from modeling_macaron.training.simulation import simulate

DEFAULT_DATASET = "HuggingFaceBio/random-promoter-dream-2022"
DEFAULT_CONFIG = "supervised"
GROUND_TRUTH = ("expression_noise_free", "motif", "motif_start", "motif_strand")

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HUB_SPLIT_COLUMN = "hub_split"
_HUB_BATCH_ROWS = 65_536


def open_source(
    source: str | None = None,
    *,
    sequence_column: str | None = None,
    value_column: str | None = None,
    split_column: str | None = None,
    config: str | None = None,
    hub_split: str | None = None,
    num_sequences: int | None = None,
    seed: int = 0,
) -> PromoterTable:
    """Open measured or simulated promoters.

    Parameters
    ----------
    source : str, optional
        A file (see `modeling_macaron.tables.open_table`), `"simulate"`, a data set on the Hub (`owner/name`) or a
        folder laid out as one. Default: the measurements of the Random Promoter DREAM Challenge 2022 on the Hub.
    sequence_column, value_column, split_column : str, optional
        Columns, where the usual names do not find them.
    config : str, optional
        Configuration of a data set on the Hub.
    hub_split : str, optional
        Use only this split of a data set on the Hub, and split its rows anew.
    num_sequences : int, optional
        Promoters to simulate; default 100,000.
    seed : int
        Seed of the simulation.

    Returns
    -------
    PromoterTable
        With a value column.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If the source is nothing known, cannot be read or reached, or an option does not belong to it.
    """
    given = Columns(sequence_column, value_column, split_column)
    is_simulation = source == "simulate"
    is_hub = source is None or (not is_simulation and _is_hub_dataset(source))
    if num_sequences is not None and not is_simulation:
        raise ValueError("--num_sequences belongs to --source simulate")
    if (config is not None or hub_split is not None) and not is_hub:
        raise ValueError("--config and --hub_split belong to a data set on the Hub")
    if is_simulation:
        if any(given):
            raise ValueError("--source simulate has columns of its own; none can be given")
        return _open_simulation(100_000 if num_sequences is None else num_sequences, seed)
    if is_hub:
        config = DEFAULT_CONFIG if source is None and config is None else config
        return _open_hub(source or DEFAULT_DATASET, config, hub_split, given)
    columns = {f"{role}_column": name for role, name in given._asdict().items()}
    return open_table(source, **columns, require_value=True)


def _is_hub_dataset(source: str) -> bool:
    """Tell a data set on the Hub (or a folder laid out as one) from a file that should be there."""
    path = Path(source)
    if path.exists():
        return path.is_dir()
    if path.name.lower().endswith(TABLE_SUFFIXES):
        raise FileNotFoundError(f"there is no file {source}")
    if not _HUB_NAME.fullmatch(source):
        raise ValueError(f"{source!r} is neither a file, nor 'simulate', nor a data set on the Hub (owner/name)")
    return True


def _open_simulation(num_sequences: int, seed: int) -> PromoterTable:
    def read_batches(_: PromoterTable) -> Iterator[TableBatch]:
        return simulate(num_sequences, seed=seed)

    return PromoterTable(
        "simulate",
        Columns("sequence", "expression"),
        "simulated",
        "row",
        read_batches,
        num_rows=num_sequences,
        details={"num_sequences": num_sequences, "simulation_seed": seed},
        extra_columns=GROUND_TRUTH,
    )


def _open_hub(name: str, config: str | None, hub_split: str | None, given: Columns) -> PromoterTable:
    loaded = _load_streaming(name, config)
    splits = _choose_splits(name, list(loaded), hub_split, given.split)
    with _explain_hub_errors(name):
        first = next(iter(loaded[splits[0]].take(1)), None)
    if first is None:
        raise ValueError(f"data set {name}: split {splits[0]!r} is empty")
    columns, found_by = find_columns(
        list(first), given, f"data set {name}", require_value=True, texts_of=lambda column: [str(first[column])]
    )
    if len(splits) > 1:
        columns = columns._replace(split=_HUB_SPLIT_COLUMN)

    def read_split(split: str) -> Iterator[TableBatch]:
        with _explain_hub_errors(name):
            tables = loaded[split].with_format("arrow").iter(batch_size=_HUB_BATCH_ROWS)
            for batch in number_batches(tables):
                splits_of_rows = pa.repeat(split, batch.table.num_rows)
                yield batch._replace(table=batch.table.append_column(_HUB_SPLIT_COLUMN, splits_of_rows))

    def read_batches(_: PromoterTable) -> Iterator[TableBatch]:
        return chain.from_iterable(map(read_split, splits))

    details = {"config": config, "splits": splits}
    return PromoterTable(name, columns, found_by, "row", read_batches, details=details)


def _load_streaming(name: str, config: str | None) -> datasets.IterableDatasetDict:
    """Open a data set without downloading it."""
    with _explain_hub_errors(name):
        return datasets.load_dataset(name, config, streaming=True)


@contextmanager
def _explain_hub_errors(name: str) -> Iterator[None]:
    """Raise a `ValueError` of one line where a data set cannot be read."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, DatasetsError, HTTPError) as error:
        if isinstance(error, ConnectionError) or is_unreachable(error):
            raise ValueError(
                f"data set {name}: the Hub cannot be reached (no network, or HF_HUB_OFFLINE is set); "
                "pass --source with a file or 'simulate'"
            ) from error
        raise ValueError(f"data set {name} cannot be read: {' '.join(str(error).split())}") from error


def _choose_splits(name: str, splits: list[str], hub_split: str | None, split_column: str | None) -> list[str]:
    """Find the splits to read: the one asked for, the only one, or those that divide the rows for training."""
    listed = f"data set {name} has the splits " + ", ".join(splits)
    if hub_split is not None:
        if hub_split not in splits:
            raise ValueError(f"{listed}, and no {hub_split!r}")
        return [hub_split]
    if len(splits) == 1:
        return splits
    if split_column is not None:
        raise ValueError(f"{listed}; --split_column needs --hub_split to name one of them")
    if not {"train", "validation"} <= set(splits) <= {"train", "validation", "test"}:
        raise ValueError(f"{listed}, not train, validation and test; pass --hub_split to split the rows of one anew")
    return [split for split in ("train", "validation", "test") if split in splits]
