"""A hash of 64-bit numbers, the same on every machine."""

import numpy as np


def mix64(state: np.ndarray) -> np.ndarray:
    """Apply the finalizer of SplitMix64 (Steele et al., OOPSLA 2014): a bijection, every bit depends on every other.

    Parameters
    ----------
    state : numpy.ndarray
        uint64 of any shape, or a uint64 scalar.

    Returns
    -------
    numpy.ndarray
        uint64 of the same shape.
    """
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
