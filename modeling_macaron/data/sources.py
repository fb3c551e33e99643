"""Find the promoter table that a source names: a file, a data set on the Hub, or the simulation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetsError
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError

from modeling_macaron.data.simulation import simulate
from modeling_macaron.hub import is_unreachable
from modeling_macaron.io.tables import (
    TABLE_SUFFIXES,
    Columns,
    PromoterTable,
    TableBatch,
    find_columns,
    number_batches,
    open_table,
)

DEFAULT_DATASET = "HuggingFaceBio/random-promoter-dream-2022"
DEFAULT_CONFIG = "supervised"
DEFAULT_REVISION = "5b18e5067fd20e589f698a4406ca6e4f2344d68f"  # later ones have no such configuration
GROUND_TRUTH = ("expression_noise_free", "motif", "motif_start", "motif_strand")

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HUB_SPLIT_COLUMN = "hub_split"
_HUB_BATCH_ROWS = 65_536


def open_source(
    source: str | None = None,
    *,
    sequence_column: str | None = None,
    value_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    hub_split: str | None = None,
    num_sequences: int | None = None,
    seed: int = 0,
) -> PromoterTable:
    """Open measured or simulated promoters.

    Parameters
    ----------
    source : str, optional
        A file (see `modeling_macaron.io.tables.open_table`), `"simulate"`, a data set on the Hub (`owner/name`) or a
        folder laid out as one. Default: the measurements of the Random Promoter DREAM Challenge 2022 on the Hub.
    sequence_column, value_column, split_column : str, optional
        Columns, if the usual names do not find them. Several value columns (such as replicates) are averaged row by
        row, ignoring missing values.
    config : str, optional
        Configuration of a data set on the Hub.
    revision : str, optional
        Commit, tag or branch of a data set on the Hub. Default: of the challenge's `DEFAULT_REVISION`, else `main`.
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
        If the source is unknown, cannot be read or reached, or an option does not apply to it.
    """
    is_single = value_column is None or isinstance(value_column, str)
    values = (value_column,) if is_single else tuple(value_column) or (None,)
    if len(set(values)) < len(values):
        raise ValueError(f"--value_column names a column twice: {' '.join(values)}")
    given = Columns(sequence_column, values[0], split_column)
    is_simulation = source == "simulate"
    is_hub = source is None or (not is_simulation and _is_hub_dataset(source))
    if num_sequences is not None and not is_simulation:
        raise ValueError("--num_sequences belongs to --source simulate")
    if any(option is not None for option in (config, revision, hub_split)) and not is_hub:
        raise ValueError("--config, --revision and --hub_split belong to a data set on the Hub")
    if revision is not None and source is not None and Path(source).is_dir():
        raise ValueError(f"--revision belongs to a data set on the Hub, and {source} is a folder")
    if is_simulation:
        if any(given):
            raise ValueError("--source simulate has its own columns; none can be given")
        return _open_simulation(100_000 if num_sequences is None else num_sequences, seed)
    if source in (None, DEFAULT_DATASET):
        source, config, revision = DEFAULT_DATASET, config or DEFAULT_CONFIG, revision or DEFAULT_REVISION
    table = None
    for value in values[::-1]:  # checks each one; the first one's table is used
        columns = given._replace(value=value)
        table = _open_hub(source, config, revision, hub_split, columns) if is_hub else _open_file(source, columns)
    if len(values) > 1 and table.unit == "record":
        raise ValueError(f"{source}: a FASTA header gives one value; name one key with --value_column")
    table.replicates = values[1:]
    return table


def _open_file(source: str, given: Columns) -> PromoterTable:
    return open_table(source, **{f"{role}_column": name for role, name in given._asdict().items()}, require_value=True)


def _is_hub_dataset(source: str) -> bool:
    """Whether a source is a data set on the Hub, or a folder laid out as one, and not a file."""
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


def _open_hub(
    name: str, config: str | None, revision: str | None, hub_split: str | None, given: Columns
) -> PromoterTable:
    with _explain_hub_errors(name):
        loaded = datasets.load_dataset(name, config, revision=revision, streaming=True)
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

    details = {"config": config, "revision": revision, "splits": splits}
    return PromoterTable(name, columns, found_by, "row", read_batches, details=details)


@contextmanager
def _explain_hub_errors(name: str) -> Iterator[None]:
    """Raise a `ValueError` of one line if a data set cannot be read."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, DatasetsError, HTTPError) as error:
        if isinstance(error, ConnectionError) or is_unreachable(error):
            raise ValueError(
                f"data set {name}: the Hub cannot be reached at {constants.ENDPOINT}: check the network, HF_ENDPOINT "
                "and HF_HUB_OFFLINE, or pass --source with a file or 'simulate'"
            ) from error
        raise ValueError(f"data set {name} cannot be read: {' '.join(str(error).split())}") from error


def _choose_splits(name: str, splits: list[str], hub_split: str | None, split_column: str | None) -> list[str]:
    """Find the splits to read: the requested one, the only one, or those for training."""
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
