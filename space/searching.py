"""The tab Design: a search that reports its progress and can be stopped."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event
from typing import NamedTuple

import numpy as np

from modeling_macaron.analysis.command_line import plural
from modeling_macaron.analysis.constraints import Constraints
from modeling_macaron.analysis.design import Design, Designer, SearchOptions
from modeling_macaron.analysis.design_oracle import SearchStopped

from .answers import Answers
from .reading import BadInput, Limits, Promoter, read_one, read_positions, read_sites, to_sentence


class DesignRequest(NamedTuple):
    """What to design, as entered in the fields."""

    start: str | None
    target: str = "higher"  # "higher", "lower" or "value"
    value: float | None = None  # in assay units
    max_edits: int = 5
    num_designs: int = 1
    quick: bool = False  # by gradient
    gc_percent: tuple[float | None, float | None] = (0, 100)
    sites: str | None = ""
    positions: str | None = ""


class DesignProgress(NamedTuple):
    """Progress of a search: predictions so far, and their upper limit."""

    num_predictions: int
    most_predictions: int


class DesignedPromoters(NamedTuple):
    """Result of a search, with warnings; `reason` says why it ended early, or is empty."""

    start: Promoter | None
    designs: tuple[Design, ...]
    reason: str
    warnings: tuple[str, ...] = ()


class _SearchProgress:
    """Replaces the progress bar of a search, counts its predictions and ends it."""

    def __init__(self, stop: Event, seconds: float):
        self._stop, self._end, self._seconds = stop, time.monotonic() + seconds, seconds
        self._counts: SimpleQueue[int] = SimpleQueue()
        self._latest = 0
        self.reason = ""

    def set_postfix(self, predictions: int) -> None:
        """Take the number of predictions so far, after each round."""
        self._counts.put(predictions)
        if self._stop.is_set():
            self.reason = "Stopped."
        elif time.monotonic() > self._end:
            self.reason = f"This took longer than {self._seconds:.0f} seconds: ask for fewer edits or designs."
        if self.reason:
            raise SearchStopped(self.reason)

    def update(self, number: int) -> None:
        """Do nothing: `set_postfix` gets the total."""

    def wait(self, seconds: float) -> int:
        """Return the number of predictions at its next change, or after some seconds."""
        with suppress(Empty):
            self._latest = self._counts.get(timeout=seconds)
        return self._latest


def search_designs(
    answers: Answers, request: DesignRequest, stop: Event
) -> Iterator[DesignProgress | DesignedPromoters]:
    """Design promoters from a start or a random one, yielding progress and finally the designs.

    `stop` ends the search at its next round of predictions, and is set when the search has ended. The field of a
    `BadInput` is that of `DesignRequest`, or empty.
    """
    tokenizer, start = answers.tokenizer, None
    if (request.start or "").strip():
        start = read_one(tokenizer, request.start, answers.limits, "start")
    options = _search_options(request, answers.limits)
    constraints = _constraints(request, tokenizer.strand_length)
    designer, letters = _prepare(answers, options, constraints, start)
    num_free = len(letters) - len(constraints.fixed_positions)
    most = options.most_predictions(num_free)
    progress = _SearchProgress(stop, answers.limits.design_seconds)
    with ThreadPoolExecutor(1) as executor:
        search = executor.submit(designer.design, [letters], 0, progress)
        try:
            while not search.done():
                yield DesignProgress(min(progress.wait(0.2), most), most)
            designs = tuple(search.result())
        finally:
            stop.set()
    yield DesignedPromoters(start, designs, progress.reason, _warn_of_target(options.target, answers))


def _prepare(
    answers: Answers, options: SearchOptions, constraints: Constraints, start: Promoter | None
) -> tuple[Designer, np.ndarray]:
    """Make the designer, and the token ids (length,) of a start that meets the constraints."""
    try:
        designer = Designer(answers.model, answers.tokenizer, options, constraints)
        letters = None if start else designer.random_starts(1, None, None)[0]
    except ValueError as error:
        raise _broken_rule(str(error)) from error
    if letters is None:
        letters = np.array(["ACGTN".index(letter) for letter in start.sequence], np.uint8)
        broken = designer.explain(letters).replace("breaks a constraint", "the start breaks a rule")
        if broken:
            raise _broken_rule(f"{broken}. Edit the start first" + (", or loosen the rule" if "rule" in broken else ""))
    if not len(designer.rules.free_positions(len(letters))):
        raise BadInput("All positions stay: leave at least one free to be edited.", "positions")
    return designer, letters


def _broken_rule(message: str) -> BadInput:
    """Word a constraint that a start breaks as the demo's fields do, in percent."""

    def in_percent(match: re.Match) -> str:
        content, low, high = (f"{100 * float(fraction):.4g}" for fraction in match.groups())
        return f"GC content {content} % is outside {low} to {high} %"

    message, is_gc = re.subn(r"GC content ([\d.]+) is outside ([\d.]+) to ([\d.]+\d|\d)", in_percent, message)
    return BadInput(to_sentence(message), "gc" if is_gc else "start")


def _warn_of_target(target: str | float, answers: Answers) -> tuple[str, ...]:
    """Warn of a target beyond the measured values."""
    if isinstance(target, str) or answers.reference is None:
        return ()
    low, high = (float(value) for value in answers.reference.percentiles[[0, -1]])
    if low <= target <= high:
        return ()
    split = answers.reference.split
    return (
        f"{target:g} is outside the range of the {split} promoters ({low:.3g} to {high:.3g}): a design may come "
        "nowhere near it.".replace("-", "−"),  # noqa: RUF001
    )


def _search_options(request: DesignRequest, limits: Limits) -> SearchOptions:
    """Make the options of the search, within the limits."""
    target: str | float | None = request.target
    if target == "value":
        target = request.value
        if target is None:
            raise BadInput("Give the expression that you want, in assay units.", "value")
    if not 1 <= request.max_edits <= limits.edits:
        raise BadInput(f"Between 1 and {plural(limits.edits, 'edit')}, please.", "max_edits")
    if not 1 <= request.num_designs <= limits.designs:
        raise BadInput(f"Between 1 and {plural(limits.designs, 'design')}, please.", "num_designs")
    method = "gradient" if request.quick else "greedy"
    seed = secrets.randbelow(2**31)  # for a random start
    options = SearchOptions(target, int(request.max_edits), method, int(request.num_designs), seed=seed)
    try:
        options.check()
    except ValueError as error:
        raise BadInput(to_sentence(str(error)), "value") from error
    return options


def _constraints(request: DesignRequest, length: int) -> Constraints:
    """Read the constraints."""
    low, high = (given if empty is None else empty for empty, given in zip(request.gc_percent, (0, 100), strict=True))
    if not 0 <= low <= high <= 100:
        message = f"The GC content must go from a smaller to a larger percentage, not {low:g} to {high:g}."
        if not (0 <= low <= 100 and 0 <= high <= 100):
            message = f"The GC content is given in percent, 0 to 100, not {low:g} to {high:g}."
        raise BadInput(message, "gc")
    gc_range = None if (low, high) == (0, 100) else (low / 100, high / 100)
    positions = read_positions(request.positions, length)
    try:
        return Constraints(gc_range, read_sites(request.sites), positions)
    except ValueError as error:
        raise BadInput(to_sentence(str(error)), "sites") from error
