"""Summary of the measured values of the training data, saved with a model and shown by the demo."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError

from modeling_macaron.dna import spell

if TYPE_CHECKING:
    from .training.dataset import PreparedData

logger = logging.getLogger(__name__)

REFERENCE = "reference.json"
_NUM_BINS = 40
_EXAMPLES = {"low": 10, "middle": 50, "high": 90}  # percentiles of the validation values
_MOST_BYTES = 200_000


class Example(NamedTuple):
    """Example promoter: sequence without flanks, and measured value in assay units or None."""

    description: str
    sequence: str
    measured: float | None


class Reference(NamedTuple):
    """Measured values of a split, to compare predictions with."""

    data: str  # name of the table
    split: str  # "training", or "validation" if the training rows were streamed
    edges: np.ndarray  # (bins + 1,) of the histogram, in assay units
    counts: np.ndarray  # (bins,)
    percentiles: np.ndarray  # (101,) percentiles 0 to 100, in assay units
    examples: tuple[Example, ...]  # of the validation split, with `--save_examples true`

    @property
    def num_promoters(self) -> int:
        """Number of promoters in the split."""
        return int(self.counts.sum())

    def percentile_of(self, expression: float) -> float:
        """Percentage of the split's promoters, 0 to 100, with lower expression."""
        return float(np.interp(expression, self.percentiles, np.arange(101)))

    def measured(self, sequence: str) -> float | None:
        """Measured value of an example; None for other sequences."""
        return next((one.measured for one in self.examples if one.sequence == sequence), None)


def write_reference(
    folder: Path, name: str, data: PreparedData, split: str = "training", save_examples: bool = False
) -> None:
    """Write `reference.json` for the table `name`, with three validation promoters if `save_examples`."""
    validation, examples = data.validation.labels, []
    for description, percentile in (_EXAMPLES if save_examples else {}).items():
        index = int(np.abs(validation - np.percentile(validation, percentile)).argmin())
        sequence = spell(data.validation[index]["input_ids"][0]).strip("N")
        examples.append(Example(description, sequence, float(f"{validation[index]:.6g}"))._asdict())
    values = validation if split == "validation" else data.train.labels
    counts, edges = np.histogram(values, bins=_NUM_BINS)
    content = {
        "data": name,
        "split": split,
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "percentiles": np.percentile(values, np.arange(101)).tolist(),
        "examples": examples,
    }
    (folder / REFERENCE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_reference(checkpoint: str | Path) -> Reference | None:
    """Read `reference.json` of a checkpoint folder or Hub model; None if it is missing or, with a warning, damaged."""
    path = Path(checkpoint, REFERENCE)
    try:
        if not Path(checkpoint).is_dir():
            path = Path(hf_hub_download(str(checkpoint), REFERENCE))
        elif not path.is_file():
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
    """Validate and convert the content of the file."""
    edges, percentiles = (np.array(content[key], np.float64) for key in ("edges", "percentiles"))
    counts = np.array(content["counts"], np.int64)
    examples = tuple(
        Example(str(one["description"]), str(one["sequence"]), float(one["measured"])) for one in content["examples"]
    )
    is_histogram = counts.shape == (counts.size,) == edges[1:].shape and counts.min() >= 0 and counts.any()
    if not is_histogram or percentiles.shape != (101,) or not (edges[1:] > edges[:-1]).all():
        raise ValueError("not a histogram with 101 percentiles")
    if not np.isfinite([*edges, *percentiles, *(one.measured for one in examples)]).all():
        raise ValueError("a value is not finite")
    if content["split"] not in ("training", "validation"):
        raise ValueError("unknown split")
    return Reference(str(content["data"]), content["split"], edges, counts, percentiles, examples)
