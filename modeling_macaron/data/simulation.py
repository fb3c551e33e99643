"""Simulated promoters: planted yeast motifs and an expression from a thermodynamic occupancy model.

The rules are known, so they can be compared with what a trained model has learned. A factor occupies a site with the
equilibrium probability of thermodynamic models of transcription (Shea & Ackers 1985, J Mol Biol 181:211). Its binding
energy depends on the sequence on both strands, and chance sites count too (Granek & Clarke 2005, Genome Biol 6:R87).
Expression depends on the occupancies of all factors together. Some factors open chromatin for the others, as random
yeast promoters showed (de Boer et al. 2020, Nat Biotechnol 38:56).

The model, for a variable part of any length (energies in kT):

1. A site with m mismatches to the consensus is occupied with p = z / (1 + z), z = exp(`CHEMICAL_POTENTIAL` - m *
   `MISMATCH_ENERGY`). Sites with more than `MAX_MISMATCHES` are left out (p < 0.00002).
2. A factor is bound with probability F = 1 - prod(1 - w * p) over its sites on both strands, so it saturates. The
   weight w is 1, times `Motif.reverse_weight` on the reverse strand and, for activators, times a logistic function of
   the distance from the downstream end of the site to the downstream end of the variable part: half at
   `ACTIVATION_REACH` nt and small farther upstream.
3. A factor with energy e multiplies one quantity by 1 + F * (exp(e) - 1). Openers multiply the odds O of open chromatin
   (`CLOSED_ODDS` without any), activators and the TATA box the polymerase's weight Q in open chromatin (`BASAL_WEIGHT`
   without any), and repressors (e < 0) the transcription rate T.
4. Rate = T * (open * Q / (1 + Q) + (1 - open) * `CLOSED_RATE`) with open = O / (1 + O). Activators and the TATA box
   have little effect without an opener, which a sum over k-mers cannot express.
5. Expression = 17 * log(1 + D * rate) / log(1 + D), D = `DYNAMIC_RANGE`: from 0 to 17 as in the challenge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_macaron.dna import IUPAC, reverse_complement_text, string_buffers
from modeling_macaron.io.tables import TableBatch
from tokenization import FLANK3, FLANK5, PROBLEMS, KmerTokenizer

CHEMICAL_POTENTIAL = 2.5  # kT; a consensus site is occupied with p = 0.92
MISMATCH_ENERGY = 4.5  # kT per mismatch
MAX_MISMATCHES = 2
ACTIVATION_REACH = 35.0  # nt from the downstream end at which an activator works half as well
ACTIVATION_DECAY = 4.0  # nt, width of that transition
CLOSED_ODDS = 0.003
BASAL_WEIGHT = 0.02
CLOSED_RATE = 0.01
DYNAMIC_RANGE = 1000.0
MAX_EXPRESSION = 17.0

VARIABLE_LENGTH = 80
MAX_SITES = 5
BASE_COMPOSITION = (0.23, 0.19, 0.28, 0.30)  # A, C, G, T as in the challenge's random promoters
_BLOCK_ROWS = 4096
_BATCH_BLOCKS = 16


class Motif(NamedTuple):
    """A factor, its binding sites and its effect."""

    name: str
    consensus: str  # published, in IUPAC codes, forward strand
    role: str  # opener, activator, core or repressor
    energy: float  # kT; log of the factor by which the bound factor multiplies what its role acts on
    reverse_weight: float  # of a site on the reverse strand relative to the forward strand, 0 to 1
    reference: str  # publication that gives the consensus


_DOORENBOSCH = "Doorenbosch et al. 1992, Gene Expr 2:193"
MOTIFS = (
    Motif("Reb1", "CCGGGTRR", "opener", 7.6, 1.0, _DOORENBOSCH),
    Motif("Abf1", "RTCRYYYNNNACG", "opener", 7.6, 1.0, _DOORENBOSCH),
    Motif("poly(dA:dT)", "AAAAAAA", "opener", 5.3, 1.0, "Iyer & Struhl 1995, EMBO J 14:2570"),
    Motif("Gcn4", "TGACTCA", "activator", 5.7, 1.0, "Hill et al. 1986, Science 234:451"),
    Motif("Cbf1", "RTCACGTG", "activator", 5.7, 1.0, _DOORENBOSCH),
    Motif("Rpn4", "GGTGGCAAA", "activator", 5.7, 0.1, "Mannhaupt et al. 1999, FEBS Lett 450:27"),
    Motif("TATA box", "TATAWAAR", "core", 2.5, 0.1, "Basehoar et al. 2004, Cell 116:699"),
    Motif("Mig1", "SYGGGG", "repressor", -1.6, 1.0, "Lundin et al. 1994, Mol Cell Biol 14:1979"),
    Motif("Ume6", "AGCCGCCGA", "repressor", -2.3, 1.0, "Sumrada & Cooper 1987, PNAS 84:3997"),
)


def _patterns(consensus: str) -> tuple[list[str], list[str]]:
    """Bases allowed at each position of a site, on the forward and on the reverse strand."""
    return tuple([IUPAC[code] for code in strand] for strand in (consensus, reverse_complement_text(consensus)))


_PATTERNS = tuple(_patterns(motif.consensus) for motif in MOTIFS)
_WIDTHS = np.array([len(motif.consensus) for motif in MOTIFS])


def simulate(num_sequences: int, *, seed: int = 0, noise: float = 1.0) -> Iterator[TableBatch]:
    """Simulate promoters with a known grammar, as a stream.

    Each promoter has a random variable part of 80 nt (`BASE_COMPOSITION`) between the challenge's constant flanks, with
    0 to `MAX_SITES` planted sites that do not overlap. Their number, motif, strand and position are drawn uniformly,
    and so are the bases at ambiguous positions of the consensus.

    Parameters
    ----------
    num_sequences : int
        Number of promoters, at least 1.
    seed : int
        Seed, 0 or more. A longer simulation begins with the rows of a shorter one.
    noise : float
        Standard deviation of the Gaussian measurement noise, in units of expression. The noise-free values have a
        standard deviation of about 4.

    Returns
    -------
    iterator of TableBatch
        At most 65,536 promoters each. `numbers` (rows,) int64 counts the promoters from 1. `table` has the columns
        `sequence` (110 nt, flanks included), `expression` (float64, with noise, which may lead beyond 0 and 17),
        `expression_noise_free` (float64) and the ground truth: `motif` (list of names), `motif_start` (list of int16,
        first nucleotide of the site on the forward strand, counted from 0 in the variable part) and `motif_strand`
        (list of int8: 0 the consensus is on the forward strand, 1 on the reverse strand). Only planted sites are
        listed; chance sites count for the expression as well.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    for name, value, least in (("num_sequences", num_sequences, 1), ("seed", seed, 0), ("noise", noise, 0)):
        if not least <= value < np.inf:
            raise ValueError(f"`{name}` must be at least {least}, got {value!r}")

    def batches() -> Iterator[TableBatch]:
        for first in range(0, num_sequences, _BATCH_BLOCKS * _BLOCK_ROWS):
            last = min(first + _BATCH_BLOCKS * _BLOCK_ROWS, num_sequences)
            blocks = range(first // _BLOCK_ROWS, -(-last // _BLOCK_ROWS))
            table = pa.concat_tables(_simulate_block(seed, block, noise) for block in blocks)
            yield TableBatch(table.slice(0, last - first), np.arange(first + 1, last + 1))

    return batches()


def noise_free_expression(sequences: Sequence[str]) -> np.ndarray:
    """Compute the noise-free expression of any sequences under the simulation's rules.

    Parameters
    ----------
    sequences : sequence of str
        Variable parts, or whole constructs: the challenge's flanks are trimmed if both are present. Lower case and U
        are accepted. N and other ambiguity codes match only N in a consensus.

    Returns
    -------
    numpy.ndarray
        (len(sequences),) float64, 0 to 17.

    Raises
    ------
    ValueError
        If a sequence is empty or not DNA, or if `sequences` is a single str.
    """
    if isinstance(sequences, str):
        raise ValueError("`sequences` must be a list of sequences, got one str")
    values = np.empty(len(sequences))
    for start in range(0, len(sequences), _BLOCK_ROWS):
        texts = pa.array(sequences[start : start + _BLOCK_ROWS])
        width = max(pc.max(pc.utf8_length(texts)).as_py(), 1)
        strands = KmerTokenizer(kmer_size=1, strand_length=width).encode_strands(*string_buffers(texts))
        for row in np.flatnonzero(strands.problem)[:1]:
            raise ValueError(f"sequence {start + row} (counted from 0): {PROBLEMS[strands.problem[row]]}")
        for length in np.unique(strands.lengths):
            rows = np.flatnonzero(strands.lengths == length)
            left = (width - length) // 2
            values[start + rows] = _expression(strands.ids[rows, left : left + length])
    return values


def _simulate_block(seed: int, index: int, noise: float) -> pa.Table:
    """Simulate `_BLOCK_ROWS` promoters from a random stream of their own."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,))))
    shape = (_BLOCK_ROWS, MAX_SITES)
    draws = rng.random((_BLOCK_ROWS, VARIABLE_LENGTH))
    ids = np.searchsorted(np.cumsum(BASE_COMPOSITION)[:-1], draws, side="right").astype(np.uint8)
    is_planted = np.arange(MAX_SITES) < rng.integers(0, MAX_SITES + 1, (_BLOCK_ROWS, 1))
    motif = rng.integers(0, len(MOTIFS), shape)
    strand = rng.integers(0, 2, shape)
    widths = np.where(is_planted, _WIDTHS[motif], 0)
    free = VARIABLE_LENGTH - widths.sum(axis=1, keepdims=True)
    gaps = np.sort(rng.integers(0, free + 1, shape), axis=1)
    start = gaps + np.cumsum(widths, axis=1) - widths
    for number, patterns in enumerate(_PATTERNS):
        for reverse, pattern in enumerate(patterns):
            rows, sites = np.nonzero(is_planted & (motif == number) & (strand == reverse))
            for offset, bases in enumerate(pattern):
                if len(bases) < 4:
                    choices = np.array(["ACGT".index(base) for base in bases], np.uint8)
                    ids[rows, start[rows, sites] + offset] = choices[rng.integers(0, len(choices), len(rows))]
    noise_free = _expression(ids)
    offsets = pa.array(np.concatenate([[0], np.cumsum(is_planted.sum(axis=1))]), pa.int32())
    names = pa.array([motif.name for motif in MOTIFS]).take(pa.array(motif[is_planted]))
    return pa.table(
        {
            "sequence": [FLANK5 + row.tobytes().decode() + FLANK3 for row in np.frombuffer(b"ACGT", np.uint8)[ids]],
            "expression": noise_free + noise * rng.standard_normal(len(noise_free)),
            "expression_noise_free": noise_free,
            "motif": pa.ListArray.from_arrays(offsets, names),
            "motif_start": pa.ListArray.from_arrays(offsets, pa.array(start[is_planted], pa.int16())),
            "motif_strand": pa.ListArray.from_arrays(offsets, pa.array(strand[is_planted], pa.int8())),
        }
    )


def _expression(ids: np.ndarray) -> np.ndarray:
    """Noise-free expression (rows,) of variable parts, ids (rows, length) with N = 4."""
    odds = np.full(len(ids), CLOSED_ODDS)
    weight = np.full(len(ids), BASAL_WEIGHT)
    transcription = np.ones(len(ids))
    target = {"opener": odds, "activator": weight, "core": weight, "repressor": transcription}
    for motif, occupancy in zip(MOTIFS, _occupancies(ids), strict=True):
        target[motif.role] *= 1 + occupancy * np.expm1(motif.energy)
    is_open = odds / (1 + odds)
    rate = transcription * (is_open * weight / (1 + weight) + (1 - is_open) * CLOSED_RATE)
    return MAX_EXPRESSION * np.log1p(DYNAMIC_RANGE * rate) / np.log1p(DYNAMIC_RANGE)


def _occupancies(ids: np.ndarray) -> Iterator[np.ndarray]:
    """Weighted occupancy (rows,) of each motif in `MOTIFS`, over all sites of both strands."""
    rows, length = ids.shape
    columns = np.ascontiguousarray(ids.T)
    differs = {
        bases: ~np.isin(columns, ["ACGT".index(base) for base in bases])
        for bases in {bases for patterns in _PATTERNS for pattern in patterns for bases in pattern}
    }
    bound = 1 / (1 + np.exp(np.arange(MAX_MISMATCHES + 1) * MISMATCH_ENERGY - CHEMICAL_POTENTIAL))
    for motif, patterns in zip(MOTIFS, _PATTERNS, strict=True):
        windows = max(length - len(motif.consensus) + 1, 0)
        distance = np.arange(windows)[::-1]  # from the downstream end of a site to that of the variable part
        site_weight = np.ones(windows)
        if motif.role == "activator":
            site_weight = 1 / (1 + np.exp((distance - ACTIVATION_REACH) / ACTIVATION_DECAY))
        log_free = np.zeros(rows)
        for strand_weight, pattern in zip((1.0, motif.reverse_weight), patterns, strict=True):
            mismatches = np.zeros((windows, rows), np.uint8)
            for offset, bases in enumerate(pattern):
                if len(bases) < 4:  # N of a sequence matches N of a consensus
                    mismatches += differs[bases][offset : offset + windows].view(np.uint8)
            start, row = np.nonzero(mismatches <= MAX_MISMATCHES)
            occupancy = strand_weight * site_weight[start] * bound[mismatches[start, row]]
            log_free += np.bincount(row, np.log1p(-occupancy), minlength=rows)
        yield -np.expm1(log_free)
