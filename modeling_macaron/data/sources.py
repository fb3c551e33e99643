"""Find the promoter table that a source names: a file, a data set on the Hub, or the simulation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetsError
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError

from modeling_macaron.data.simulation import simulate
from modeling_macaron.data.splits import SPLITS
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
DEFAULT_REVISION = "5b18e5067fd20e589f698a4406ca6e4f2344d68f"  # later revisions lack this configuration
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
    num_sequences: int = 100_000,
    seed: int = 0,
) -> PromoterTable:
    """Open measured or simulated promoters.

    Parameters
    ----------
    source : str, optional
        A file (see `modeling_macaron.io.tables.open_table`), `"simulate"`, a data set on the Hub (`owner/name`) or a
        folder laid out as one. Default: the measurements of the Random Promoter DREAM Challenge 2022 on the Hub.
    Column names, if they are not usual ones. Several value columns (such as replicates) are averaged row by row,
    ignoring missing values.
    config : str, optional
        Configuration of a data set on the Hub.
    revision : str, optional
        Commit, tag or branch of a data set on the Hub. Default: `DEFAULT_REVISION` for the challenge, else `main`.
    hub_split : str, optional
        Use only this split of a data set on the Hub, and split its rows anew.
    num_sequences, seed : int
        Promoters to simulate, and the seed of the simulation.

    Returns
    -------
    PromoterTable
        Table with a value column.

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    ValueError
        If the source is unknown, cannot be read or reached, or an option does not apply to it.
    """
    is_hub = source is None or _is_hub_dataset(source)
    if any((config, revision, hub_split)) and not is_hub:
        raise ValueError("--config, --revision and --hub_split belong to a data set on the Hub")
    if source == "simulate":
        return _open_simulation(num_sequences, seed)
    if source in (None, DEFAULT_DATASET):
        source, config, revision = DEFAULT_DATASET, config or DEFAULT_CONFIG, revision or DEFAULT_REVISION
    values = (value_column,) if value_column is None or isinstance(value_column, str) else tuple(value_column)
    tables = []
    for value in values:
        if is_hub:
            columns = Columns(sequence_column, value, split_column)
            tables.append(_open_hub(source, config, revision, hub_split, columns))
        else:
            options = {"sequence_column": sequence_column, "value_column": value, "split_column": split_column}
            tables.append(open_table(source, **options, require_value=True))
    if len(tables) > 1 and tables[0].unit == "record":
        raise ValueError(f"{source}: a FASTA header gives one value; name one key with --value_column")
    tables[0].replicates = values[1:]
    return tables[0]


def _is_hub_dataset(source: str) -> bool:
    """Whether a source is a data set on the Hub, or a folder laid out as one."""
    path = Path(source)
    if source == "simulate" or path.exists():
        return path.is_dir()
    if path.name.lower().endswith(TABLE_SUFFIXES):
        raise FileNotFoundError(f"there is no file {source}")
    if not _HUB_NAME.fullmatch(source):
        raise ValueError(f"{source!r} is neither a file, nor 'simulate', nor a data set on the Hub (owner/name)")
    return True


def _open_simulation(num_sequences: int, seed: int) -> PromoterTable:
    columns, details = Columns("sequence", "expression"), {"num_sequences": num_sequences, "simulation_seed": seed}
    options = {"num_rows": num_sequences, "details": details, "extra_columns": GROUND_TRUTH}
    return PromoterTable(
        "simulate", columns, "simulated", "row", lambda _: simulate(num_sequences, seed=seed), **options
    )


def _open_hub(
    name: str, config: str | None, revision: str | None, hub_split: str | None, given: Columns
) -> PromoterTable:
    where = f"data set {name}"
    with _explain_hub_errors(where):
        loaded = datasets.load_dataset(name, config, revision=revision, streaming=True)
    splits = _choose_splits(where, list(loaded), hub_split, given.split)
    with _explain_hub_errors(where):
        first = next(iter(loaded[splits[0]].take(1)), None)
    if first is None:
        raise ValueError(f"{where}: split {splits[0]!r} is empty")
    columns, found_by = find_columns(list(first), given, where, True, lambda column: [str(first[column])])
    if len(splits) > 1:
        columns = columns._replace(split=_HUB_SPLIT_COLUMN)

    def read_batches(_: PromoterTable) -> Iterator[TableBatch]:
        with _explain_hub_errors(where):
            for split in splits:
                for batch in number_batches(loaded[split].with_format("arrow").iter(batch_size=_HUB_BATCH_ROWS)):
                    splits_of_rows = pa.repeat(split, batch.table.num_rows)
                    yield batch._replace(table=batch.table.append_column(_HUB_SPLIT_COLUMN, splits_of_rows))

    details = {"config": config, "revision": revision, "splits": splits}
    return PromoterTable(name, columns, found_by, "row", read_batches, details=details)


@contextmanager
def _explain_hub_errors(where: str) -> Iterator[None]:
    """Raise a one-line `ValueError` if a data set cannot be read."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, DatasetsError, HTTPError) as error:
        if isinstance(error, ConnectionError) or is_unreachable(error):
            raise ValueError(
                f"{where}: the Hub cannot be reached at {constants.ENDPOINT}: check the network, HF_ENDPOINT and "
                "HF_HUB_OFFLINE, or pass --source with a file or 'simulate'"
            ) from error
        raise ValueError(f"{where} cannot be read: {' '.join(str(error).split())}") from error


def _choose_splits(where: str, splits: list[str], hub_split: str | None, split_column: str | None) -> list[str]:
    """Find the splits to read: the requested one, the only one, or those for training."""
    if hub_split in splits:
        return [hub_split]
    if hub_split is None and len(splits) == 1:
        return splits
    if hub_split is None and split_column is None and {"train", "validation"} <= set(splits) <= set(SPLITS):
        return [split for split in SPLITS if split in splits]
    raise ValueError(
        f"{where} has the splits {', '.join(splits)}: name one of them with --hub_split, to divide its rows anew or by "
        "--split_column"
    )
