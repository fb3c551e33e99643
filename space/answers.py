"""Compute the answers of the tabs Predict, Mutagenesis and Variant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modeling_macaron.analysis.mutagenesis import Mutagenesis, saturation_mutagenesis
from modeling_macaron.analysis.variants import apply_variant, check_different
from modeling_macaron.dna import (
    BASES,
    Difference,
    encode_bases,
    reverse_complement_text,
    where_they_differ,
    with_flanks,
    without_trimming,
)
from modeling_macaron.predictor import Predictor
from modeling_macaron.reference import Example, load_reference

from .reading import BadInput, Limits, Pasted, Promoter, read_change, read_one, read_pasted, read_promoters

NUM_STRONGEST = 10
UNLIKE_TRAINING = "Its composition is unlike that of the training promoters: the prediction is an extrapolation."


class PredictedPromoter(NamedTuple):
    """Answer for one pasted sequence."""

    name: str
    promoter: Promoter | None
    expression: float | None
    percentile: float | None  # of the reference's measurements
    measured: float | None  # for an example
    problem: str


class Substitution(NamedTuple):
    """A single substitution: position from 1, bases, and change of the prediction in assay units."""

    position: int
    reference: str
    alternative: str
    delta: float


class MutatedPromoter(NamedTuple):
    """All substitutions of a promoter by position, and the strongest of known bases."""

    promoter: Promoter
    result: Mutagenesis
    substitutions: tuple[Substitution, ...]
    strongest: tuple[Substitution, ...]


class ComparedAlleles(NamedTuple):
    """Effect of a variant: (reference, alternative) predictions in assay units, in both orientations."""

    reference: Promoter
    alternative: Promoter
    forward: tuple[float, float]
    reversed: tuple[float, float]
    difference: Difference
    num_cut: int = 0  # nucleotides cut off the alternative's 5' end


class Answers:
    """Answer requests with one model. Requests are not stored."""

    def __init__(self, checkpoint: str | Path, limits: Limits | None = None):
        self.predictor = Predictor.from_pretrained(checkpoint)
        self.tokenizer, self.config = self.predictor.tokenizer, self.predictor.config
        self.reference = load_reference(checkpoint)
        self.examples = tuple(self._readable(self.reference.examples if self.reference else ()))
        if not self.examples:
            self.examples = (next(self._readable(self._random_sequences())),)
        std = self.config.expression_std
        self.digits = 0 if std >= 100 else min(max(2, 1 - math.floor(math.log10(std))), 12)
        self.limits = Limits() if limits is None else limits
        self.trimmed = replace(self.predictor, tokenizer=without_trimming(self.tokenizer))  # for trimmed promoters
        self.trimmed.predict(["A"])  # warm up

    def _random_sequences(self) -> Iterator[Example]:
        """Yield random promoters from a fixed seed."""
        generator = np.random.default_rng(0)
        while True:
            bases = generator.choice(list(BASES), self.tokenizer.strand_length)
            yield Example("random sequence", "".join(bases), None)

    def _readable(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Keep the examples that the model reads unchanged. Adds flanks if the tokenizer always trims them."""
        for one in examples:
            typed = with_flanks(self.tokenizer, one.sequence)
            (found,) = read_promoters(self.tokenizer, [Pasted("", typed, 1)])
            if isinstance(found, Promoter) and found.sequence == one.sequence and set(BASES) & set(one.sequence):
                yield one._replace(sequence=typed)

    def predict(self, text: str | None, keep_middle: bool = False) -> list[PredictedPromoter]:
        """Predict pasted sequences in order. Raises `BadInput` if none can be predicted."""
        pasted = read_pasted(text, self.limits)
        promoters = read_promoters(self.tokenizer, pasted, keep_middle)
        promoters = [self._warned(one) if isinstance(one, Promoter) else one for one in promoters]
        fine = [one for one in promoters if isinstance(one, Promoter)]
        if not fine and len(promoters) == 1:
            raise promoters[0]
        if not fine:
            raise BadInput(f"None of these {len(promoters)} lines is a promoter. The first one: {promoters[0]}")
        values = iter(self.trimmed.predict([one.sequence for one in fine]).tolist())
        return [
            self._to_answer(given.name, one, next(values))
            if isinstance(one, Promoter)
            else PredictedPromoter(given.name, None, None, None, None, str(one))
            for given, one in zip(pasted, promoters, strict=True)
        ]

    def _warned(self, promoter: Promoter) -> Promoter:
        """Add a warning if a promoter is unlike the training rows."""
        is_unlike = self.config.unlike_training(encode_bases(promoter.sequence)[None])
        if is_unlike is None or not is_unlike[0]:
            return promoter
        return promoter._replace(warnings=(*promoter.warnings, UNLIKE_TRAINING))

    def _to_answer(self, name: str, promoter: Promoter, expression: float) -> PredictedPromoter:
        if self.reference is None:
            return PredictedPromoter(name, promoter, expression, None, None, "")
        percentile, measured = self.reference.percentile_of(expression), self.reference.measured(promoter.sequence)
        return PredictedPromoter(name, promoter, expression, percentile, measured, "")

    def mutate(self, text: str | None) -> MutatedPromoter:
        """Predict all single substitutions of one promoter."""
        promoter = self._warned(read_one(self.tokenizer, text, self.limits))
        (result,) = saturation_mutagenesis(self.trimmed, [promoter.sequence])
        substitutions = [
            Substitution(position, letter, base, float(delta))
            for position, (letter, deltas) in enumerate(zip(result.sequence, result.deltas, strict=True), start=1)
            for base, delta in zip(BASES, deltas, strict=True)
            if base != letter
        ]
        known = [one for one in substitutions if one.reference in BASES]
        strongest = sorted(known, key=lambda one: -abs(one.delta))[:NUM_STRONGEST]
        return MutatedPromoter(promoter, result, tuple(substitutions), tuple(strongest))

    def compare(self, reference: str | None, alternative: str | None, cut: bool = False) -> ComparedAlleles:
        """Predict a promoter with and without a variant.

        `alternative` is a sequence or a change (see `read_change`). With `cut`, an alternative that is too long loses
        its 5' end. The field of a `BadInput` is `"reference"` or `"alternative"`.
        """
        first = read_one(self.tokenizer, reference, self.limits, "reference")
        if not (alternative or "").strip():
            message = f"Write a change, such as {change_of(first.sequence)}, or paste the other sequence."
            raise BadInput(message, "alternative")
        change, num_cut = read_change(alternative), 0
        if change is None:
            second = read_one(self.tokenizer, alternative, self.limits, "alternative")
            difference = where_they_differ(first.sequence, second.sequence)
        else:
            changed, difference = _change(first.sequence, *change)
            num_cut = self._count_too_many(changed, change, cut)
            second = read_one(self.trimmed.tokenizer, changed[num_cut:], self.limits, "alternative")
        if first.sequence == second.sequence:
            raise BadInput(
                "After cutting the 5' end, this is the same as the reference."
                if num_cut
                else f"This is the same as the reference. Write a change, such as {change_of(first.sequence)}.",
                "alternative",
            )
        first, second = map(self._warned, (first, second))
        pair = [one.sequence for one in (first, second)]
        turned = [reverse_complement_text(sequence) for sequence in pair]
        forward, reverse = self.trimmed.predict(pair + turned).reshape(2, 2).tolist()
        return ComparedAlleles(first, second, tuple(forward), tuple(reverse), difference, num_cut)

    def _count_too_many(self, changed: str, change: tuple[str, int, str], cut: bool) -> int:
        """Count the nucleotides to cut. Raises if cutting is not allowed."""
        too_many = max(len(changed) - self.tokenizer.strand_length, 0)
        if too_many and not cut:
            raise BadInput(
                f"{_spell(*change)} makes it {len(changed)} nt long, {too_many} more than the model reads. Allow "
                "cutting the 5' end, or shorten the reference.",
                "alternative",
            )
        return too_many


def change_of(sequence: str, position: int = 12) -> str:
    """Write an example of a substitution, at `position` (from 1) if it has a base."""
    known = [place for place, letter in enumerate(sequence, start=1) if letter in BASES]
    position = known[0] if known and position not in known else position
    letter = sequence[position - 1] if known else "A"
    return f"{letter}{position}{'G' if letter != 'G' else 'A'}"


def example_changes(sequence: str) -> tuple[str, str, str]:
    """Write examples of a substitution, a deletion and an insertion."""
    known = [place for place, base in enumerate(sequence, start=1) if base in BASES]
    place = known[min(3, len(known) - 1)]
    base = sequence[place - 1]
    return change_of(sequence, 66), f"{base}{place}del", f"{base}{place}{base}C"


def _spell(before: str, position: int, after: str) -> str:
    return f"{before}{position}{after or 'del'}"


def _change(sequence: str, before: str, position: int, after: str) -> tuple[str, Difference]:
    """Apply a change at a position from 1. Returns the sequence and the difference as written."""
    last, written = position + len(before) - 1, _spell(before, position, after)
    if position < 1 or last > len(sequence):
        raise BadInput(
            f"{written} lies outside the reference, which has positions 1 to {len(sequence)} (without flanks).",
            "alternative",
        )
    try:
        check_different(before, after)
        changed = apply_variant(sequence, position - 1, before, after)
    except ValueError as error:
        there = sequence[position - 1 : last]
        if there == before:
            raise BadInput(f"{written} cannot be applied: {error}.", "alternative") from error
        raise BadInput(
            f"{written} does not match the reference: it has {there}, not {before}, at position {position} (counted "
            "from 1, without flanks).",
            "alternative",
        ) from error
    within = where_they_differ(before, after)
    return changed, within._replace(position=position - 1 + within.position)
