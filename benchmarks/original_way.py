"""Preparation as the original does it, a baseline: pandas, an object for each sequence, a look-up for each letter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from Bio.Seq import Seq

from tokenization import FLANK3, FLANK5

_LETTERS = {letter: index for index, letter in enumerate("ACGTN")}


def prepare(path: str | Path, strand_length: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Read a headerless table and encode both strands, row by row.

    Parameters
    ----------
    path : str or Path
        Tab-separated sequences and values.
    strand_length : int
        Longest variable part.

    Returns
    -------
    ids : numpy.ndarray
        (rows, 2 * strand_length) int64 letter ids; rows that are too long are left out.
    values : numpy.ndarray
        (rows,) float64.
    """
    frame = pd.read_csv(path, sep="\t", names=["sequence", "expression"])
    frame["sequence"] = [text[len(FLANK5) : -len(FLANK3)] for text in frame["sequence"]]
    frame = frame[frame["sequence"].str.len() <= strand_length]
    rows = []
    for text in frame["sequence"]:
        left = (strand_length - len(text)) // 2
        padded = Seq("N" * left + text + "N" * (strand_length - len(text) - left))
        both = str(padded) + str(padded.reverse_complement())
        rows.append([_LETTERS[letter] for letter in both])
    return np.array(rows), frame["expression"].to_numpy()
