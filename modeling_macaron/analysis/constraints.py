"""Constraints on designed promoters: GC content, forbidden sites and fixed positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from modeling_macaron.dna import BASES, IUPAC
from tokenization import KmerTokenizer

_C, _G = BASES.index("C"), BASES.index("G")
_ROUNDING = 1e-9  # both limits are inclusive


@dataclass(frozen=True)
class Constraints:
    """Constraints that every design meets.

    Parameters
    ----------
    gc_range : (float, float), optional
        Lowest and highest GC content of the variable part, as fractions, limits included.
    forbidden_sites : tuple of str
        Sites in IUPAC codes, such as `"GAATTC"`, to avoid on both strands. Sites across the border of a flank count;
        sites within a flank do not. To avoid runs of a base, add a site such as `"AAAAAAAA"`.
    fixed_positions : tuple of int
        Positions of the variable part, from 0, that are not edited.

    Raises
    ------
    ValueError
        If a constraint is invalid.

    Examples
    --------
    >>> Constraints(gc_range=(0.3, 0.6), forbidden_sites=("GAATTC",), fixed_positions=tuple(range(5)))
    Constraints(gc_range=(0.3, 0.6), forbidden_sites=('GAATTC',), fixed_positions=(0, 1, 2, 3, 4))
    """

    gc_range: tuple[float, float] | None = None
    forbidden_sites: tuple[str, ...] = ()
    fixed_positions: tuple[int, ...] = ()

    def __post_init__(self):
        if self.gc_range is not None and not (
            len(self.gc_range) == 2 and 0 <= self.gc_range[0] <= self.gc_range[1] <= 1
        ):
            raise ValueError(f"gc_range must be two fractions, the smaller first, got {self.gc_range}")
        if isinstance(self.forbidden_sites, str):
            raise ValueError("forbidden_sites must be a tuple of sites, got one str")
        for site in self.forbidden_sites:
            if not site or set(site.upper()) - set(IUPAC):
                raise ValueError(f"forbidden site {site!r} is not DNA in IUPAC codes")
            if set(site.upper()) == {"N"}:
                raise ValueError(f"forbidden site {site!r} matches every sequence")
        for position in self.fixed_positions:
            if position < 0:
                raise ValueError(f"fixed position {position}: positions are counted from 0")


class _Pattern(NamedTuple):
    """A site on one strand, with the bases `allowed` at each position, (width, 4) bool, and the flanks."""

    site: str
    strand: str
    allowed: np.ndarray
    left: np.ndarray
    right: np.ndarray

    def hits(self, ids: np.ndarray) -> np.ndarray:
        """Find the windows (rows, windows) of sequences (rows, length) that match. Window 0 begins in the flank."""
        sides = [np.broadcast_to(side, (len(ids), side.size)) for side in (self.left, self.right)]
        construct = np.concatenate([sides[0], ids, sides[1]], axis=1)
        width = len(self.allowed)
        num_windows = max(construct.shape[1] - width + 1, 0)
        found = np.ones((len(ids), num_windows), dtype=bool)
        for offset in range(width):
            found &= self.allowed[offset][construct[:, offset : offset + num_windows]]
        return found


class Rules:
    """Constraints on one construct, checked for many sequences at once.

    With `trimming="never"` a sequence is the whole construct. With `"auto"` a sequence that begins and ends like the
    flanks is rejected, since the tokenizer would trim it.
    """

    def __init__(self, constraints: Constraints, tokenizer: KmerTokenizer):
        self.constraints = constraints
        flanks = ("", "") if tokenizer.trimming == "never" else (tokenizer.flank5, tokenizer.flank3)
        self._flank5, self._flank3 = (np.array([BASES.index(base) for base in flank], np.uint8) for flank in flanks)
        self._may_be_cut = tokenizer.trimming == "auto" and any(flanks)
        self._patterns = [
            pattern for site in dict.fromkeys(site.upper() for site in constraints.forbidden_sites)
            for pattern in self._strands_of(site)
        ]  # fmt: skip

    def _strands_of(self, site: str) -> list[_Pattern]:
        """Patterns of a site on both strands; one for a palindrome."""
        forward = np.array([[base in IUPAC[letter] for base in BASES] for letter in site])
        reverse = forward[::-1, ::-1]
        margin = len(site) - 1
        flanks = self._flank5[max(self._flank5.size - margin, 0) :], self._flank3[:margin]
        patterns = [_Pattern(site, "forward", forward, *flanks), _Pattern(site, "reverse", reverse, *flanks)]
        return patterns[:1] if np.array_equal(forward, reverse) else patterns

    def free_positions(self, length: int) -> np.ndarray:
        """Positions (free,) of a sequence that may be edited."""
        return np.setdiff1d(np.arange(length), np.array(self.constraints.fixed_positions, dtype=np.int64))

    def allow(self, ids: np.ndarray) -> np.ndarray:
        """Whether sequences (rows, length), ids of A, C, G and T, meet the constraints: (rows,) bool."""
        allowed = ~self._is_cut(ids)
        if self.constraints.gc_range is not None:
            content = _gc_content(ids)
            low, high = self.constraints.gc_range
            allowed &= (content >= low - _ROUNDING) & (content <= high + _ROUNDING)
        for pattern in self._patterns:
            allowed[allowed] = ~pattern.hits(ids[allowed]).any(axis=1)
        return allowed

    def explain(self, ids: np.ndarray) -> str | None:
        """Describe the first constraint that a sequence (length,) breaks; None if it meets all."""
        if any(position >= ids.size for position in self.constraints.fixed_positions):
            last = max(self.constraints.fixed_positions) + 1
            return f"position {last} (counted from 1) is fixed, but it has only {ids.size} nt"
        if self.constraints.gc_range is not None:
            content, (low, high) = float(_gc_content(ids[None])[0]), self.constraints.gc_range
            if not low - _ROUNDING <= content <= high + _ROUNDING:
                return f"its GC content {content:.3f} is outside {low} to {high}"
        for pattern in self._patterns:
            windows = np.flatnonzero(pattern.hits(ids[None])[0])
            if windows.size:
                position = int(windows[0]) - pattern.left.size + 1
                place = f"at position {position} (counted from 1)" if position > 0 else "across the 5' flank"
                return f"it has the forbidden site {pattern.site} {place}, {pattern.strand} strand"
        if self._is_cut(ids[None])[0]:
            return "its variable part begins and ends like the flanks and would be trimmed"
        return None

    def _is_cut(self, ids: np.ndarray) -> np.ndarray:
        """Whether sequences (rows, length) begin and end like the flanks, (rows,)."""
        left, right = self._flank5.size, self._flank3.size
        if not self._may_be_cut or ids.shape[1] < left + right:
            return np.zeros(len(ids), dtype=bool)
        ends = ids[:, ids.shape[1] - right :]
        return (ids[:, :left] == self._flank5).all(axis=1) & (ends == self._flank3).all(axis=1)


def _gc_content(ids: np.ndarray) -> np.ndarray:
    """Fraction of G and C in sequences (rows, length), (rows,)."""
    return ((ids == _C) | (ids == _G)).mean(axis=1)


def random_promoters(num: int, length: int, gc: float, rules: Rules, seed: int, max_draws: int = 1000) -> np.ndarray:
    """Draw random sequences (num, length) uint8 with GC content `gc` that meet the rules.

    Each sequence has its own seed, so a larger `num` only appends rows. Raises a `ValueError` after `max_draws` draws.
    """
    found = np.empty((num, length), np.uint8)
    num_gc = round(gc * length)
    for index in range(num):
        random = np.random.default_rng([seed, index])
        for _ in range(max_draws):
            strong = random.permutation(length) < num_gc
            ids = np.where(strong, random.choice([_C, _G], length), random.choice([0, 3], length)).astype(np.uint8)
            broken = rules.explain(ids)
            if broken is None:
                break
        else:
            raise ValueError(f"none of {max_draws} random promoters of {length} nt is allowed; the last: {broken}")
        found[index] = ids
    return found
