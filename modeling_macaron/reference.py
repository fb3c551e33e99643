"""Summary of the measured values behind a model: training saves it with the model, the demo shows it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError

if TYPE_CHECKING:
    from .training.dataset import PreparedData, PromoterDataset

logger = logging.getLogger(__name__)

REFERENCE = "reference.json"
_NUM_BINS = 40
_EXAMPLES = {"low": 10, "middle": 50, "high": 90}  # percentiles of the validation values
_ROWS_AT_A_TIME = 10_000
_MOST_BYTES, _MOST_BINS, _MOST_EXAMPLES, _MOST_CHARACTERS = 200_000, 1_000, 20, 100
_LARGEST, _NARROWEST = 1e30, 1e-30  # value, and range of values


class Example(NamedTuple):
    """A promoter to try: what it is, its sequence without flanks, and its value in assay units (None: not measured)."""

    description: str
    sequence: str
    measured: float | None


class Reference(NamedTuple):
    """Measured values to compare predictions with.

    Attributes
    ----------
    data : str
        Name of the table.
    split : str
        `"training"`, or `"validation"` where the training rows came from a stream.
    edges, counts : numpy.ndarray
        (bins + 1,) edges in assay units and (bins,) promoters of the split.
    percentiles : numpy.ndarray
        (101,) percentiles 0 to 100 of the split, in assay units.
    examples : tuple of Example
        Promoters of the validation split.
    """

    data: str
    split: str
    edges: np.ndarray
    counts: np.ndarray
    percentiles: np.ndarray
    examples: tuple[Example, ...]

    @property
    def num_promoters(self) -> int:
        """Number of promoters in the split."""
        return int(self.counts.sum())

    def percentile_of(self, expression: float) -> float:
        """Percentage of the split's promoters, 0 to 100, whose expression is lower."""
        return float(np.interp(expression, self.percentiles, np.arange(101)))

    def measured(self, sequence: str) -> float | None:
        """Value of an example, None of any other sequence (str, without flanks)."""
        return next((one.measured for one in self.examples if one.sequence == sequence), None)


def write_reference(folder: Path, name: str, data: PreparedData, split: str = "training") -> None:
    """Write `reference.json`.

    Parameters
    ----------
    folder : Path
        Folder of the model.
    name : str
        Name of the table, for people.
    data : PreparedData
        What the model was trained and validated on.
    split : str
        Which rows to count: `"training"` or `"validation"`.
    """
    validation = _values(data.validation)
    values = validation if split == "validation" else _values(data.train)
    counts, edges = np.histogram(values, bins=_NUM_BINS)
    content = {
        "data": name[:_MOST_CHARACTERS],
        "split": split,
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "percentiles": np.percentile(values, np.arange(101)).tolist(),
        "examples": [
            _choose(description, data.validation, validation, percentile)._asdict()
            for description, percentile in _EXAMPLES.items()
        ],
    }
    (folder / REFERENCE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _values(rows: PromoterDataset) -> np.ndarray:
    """Read the (rows,) float64 values of a split."""
    starts = range(0, len(rows), _ROWS_AT_A_TIME)
    parts = [rows.__getitems__(range(start, min(start + _ROWS_AT_A_TIME, len(rows))))["labels"] for start in starts]
    return np.concatenate(parts).astype(np.float64)


def _choose(description: str, rows: PromoterDataset, values: np.ndarray, percentile: float) -> Example:
    """Take the promoter whose value is nearest to a percentile."""
    index = int(np.abs(values - np.percentile(values, percentile)).argmin())
    sequence = "".join("ACGTN"[base] for base in rows[index]["input_ids"][0]).strip("N")
    return Example(description, sequence, float(f"{values[index]:.6g}"))


def load_reference(checkpoint: str | Path) -> Reference | None:
    """Read `reference.json` of a checkpoint; a damaged one is reported and ignored.

    Parameters
    ----------
    checkpoint : str or Path
        Folder, or name on the Hub.

    Returns
    -------
    Reference or None
        None where there is none that can be used.
    """
    path = Path(checkpoint, REFERENCE)
    try:
        if not Path(checkpoint).is_dir():
            path = Path(hf_hub_download(str(checkpoint), REFERENCE))
        if not path.is_file():
            return None
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES:,} bytes")
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except EntryNotFoundError:
        return None
    except (OSError, HTTPError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        logger.warning("%s of %s is not readable and is ignored (%s)", REFERENCE, checkpoint, reason)
        return None


def _parse(content: dict) -> Reference:
    """Check what a file holds; raises an error of any of the kinds that `load_reference` catches."""
    edges, counts, percentiles = (np.array(content[key], np.float64) for key in ("edges", "counts", "percentiles"))
    examples = tuple(
        Example(one["description"], one["sequence"], float(one["measured"])) for one in content["examples"]
    )
    texts = [content["data"], *(one.description for one in examples)]
    checks = {
        "data, description": all(isinstance(one, str) and 0 < len(one) <= _MOST_CHARACTERS for one in texts),
        "split": content["split"] in ("training", "validation"),
        "edges": edges.ndim == 1 and 2 <= len(edges) <= _MOST_BINS + 1 and np.abs(edges).max() < _LARGEST,
        "counts": counts.shape == (len(edges) - 1,) and counts.min() >= 0 and 0 < counts.sum() < 1e15,
        "percentiles": percentiles.shape == (101,) and np.abs(percentiles).max() < _LARGEST,
        "order of edges": (edges[1:] > edges[:-1]).all() and edges[-1] - edges[0] > _NARROWEST,
        "order of percentiles": (percentiles[1:] >= percentiles[:-1]).all(),
        "examples": len(examples) <= _MOST_EXAMPLES
        and all(isinstance(one.sequence, str) and np.isfinite(one.measured) for one in examples),
    }
    if failed := [name for name, passed in checks.items() if not passed]:
        raise ValueError(f"unexpected {failed[0]}")
    return Reference(content["data"], content["split"], edges, counts.astype(np.int64), percentiles, examples)
