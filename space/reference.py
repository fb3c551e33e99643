"""What the page knows of the measurements: their distribution in training, and a few promoters kept out of it.

    python -m space.reference --table measured_library.parquet

writes `space/reference.json`: bins and percentiles of the training values, and five promoters with their measurements.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenization.tokenization_kmer import FLANK3, FLANK5

REFERENCE = Path(__file__).with_name("reference.json")
NUM_BINS = 40

# Name, column of the table that marks the promoters (None: those that no column marks), percentile of their values.
_CHOICES = (
    ("low", "low", 50), ("middle", None, 50), ("high", "high", 50), ("native", "yeast", 90), ("random", "random", 25),
)  # fmt: skip
_DESCRIPTIONS = {
    "low": "low",
    "middle": "middle",
    "high": "high",
    "native": "native yeast",
    "random": "random DNA",
}


class Example(NamedTuple):
    """A promoter that was measured and kept out of training."""

    name: str
    description: str
    sequence: str
    measured: float


class Reference(NamedTuple):
    """Measurements that the page compares with.

    Attributes
    ----------
    num_promoters : int
        Promoters of the training data.
    edges, counts : numpy.ndarray
        (bins + 1,) edges in assay units and (bins,) promoters of the training data.
    percentiles : numpy.ndarray
        (101,) percentiles 0 to 100 of the training data, in assay units.
    examples : tuple of Example
        Promoters to try.
    """

    num_promoters: int
    edges: np.ndarray
    counts: np.ndarray
    percentiles: np.ndarray
    examples: tuple[Example, ...]

    def percentile_of(self, expression: float) -> float:
        """Percentage of the training promoters, 0 to 100, whose expression is lower."""
        return float(np.interp(expression, self.percentiles, np.arange(101)))

    def measured(self, sequence: str) -> float | None:
        """Measurement of an example, None of any other sequence (str, without flanks)."""
        return next((one.measured for one in self.examples if one.sequence == sequence), None)


def load_reference(path: str | Path = REFERENCE) -> Reference:
    """Read what `python -m space.reference` wrote."""
    content = json.loads(Path(path).read_text())
    examples = tuple(Example(**example) for example in content["examples"])
    arrays = (np.array(content[name]) for name in ("edges", "counts", "percentiles"))
    return Reference(content["num_promoters"], *arrays, examples)


def measure(table: str | Path) -> dict:
    """Take the distribution and the examples from the challenge's measured library.

    Parameters
    ----------
    table : str or Path
        Parquet with the columns `sequence`, `activity`, `split` and the flags `low`, `high`, `yeast` and `random`.

    Returns
    -------
    dict
        What `load_reference` reads.
    """
    import pandas as pd

    library = pd.read_parquet(table)
    values = library.loc[library["split"] == "train", "activity"].to_numpy()
    counts, edges = np.histogram(values, bins=NUM_BINS)
    held_out = library[library["split"] == "validation"]
    return {
        "num_promoters": len(values),
        "edges": np.round(edges, 4).tolist(),
        "counts": counts.tolist(),
        "percentiles": np.round(np.percentile(values, np.arange(101)), 4).tolist(),
        "examples": [_choose(held_out, *choice)._asdict() for choice in _CHOICES],
    }


def _choose(held_out, name: str, column: str | None, percentile: float) -> Example:
    """Take the promoter whose value is nearest to a percentile of its kind."""
    flags = held_out[["low", "high", "yeast", "random", "challenging"]]
    rows = held_out[~flags.any(axis=1) if column is None else held_out[column]]
    rows = rows[rows["sequence"].str.len() == len(FLANK5) + 80 + len(FLANK3)]
    distance = (rows["activity"] - np.percentile(rows["activity"], percentile)).abs()
    row = rows.loc[distance.sort_values(kind="stable").index[0]]
    sequence = row["sequence"].removeprefix(FLANK5).removesuffix(FLANK3)
    return Example(name, _DESCRIPTIONS[name], sequence, round(float(row["activity"]), 2))


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="the challenge's measured library, Parquet")
    parser.add_argument("--output", type=Path, default=REFERENCE, help="(%(default)s)")
    options = parser.parse_args(argv)
    options.output.write_text(json.dumps(measure(options.table), indent=1) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
