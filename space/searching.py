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

from modeling_macaron.analysis.command_line import plural
from modeling_macaron.analysis.constraints import Constraints
from modeling_macaron.analysis.design import Design, SearchOptions, design, random_starts
from modeling_macaron.dna import with_flanks

from .answers import Answers
from .reading import BadInput, Limits, Promoter, read_one, read_positions, read_sites, to_sentence


class DesignRequest(NamedTuple):
    """Design options as entered by the user."""

    start: str | None
    target: str = "higher"  # "higher", "lower" or "value"
    value: float | None = None  # in assay units
    max_edits: int = 5
    num_designs: int = 1
    quick: bool = False  # by gradient
    gc_percent: tuple[float | None, float | None] = (0, 100)
    sites: str | None = ""
    positions: str | None = ""


class DesignedPromoters(NamedTuple):
    """Result of a search, with warnings; `reason` says why it ended early, or is empty."""

    start: Promoter | None
    designs: tuple[Design, ...]
    reason: str
    warnings: tuple[str, ...] = ()


def search_designs(answers: Answers, request: DesignRequest, stop: Event) -> Iterator[int | DesignedPromoters]:
    """Design promoters from a given or random start. Yields numbers of predictions, then the designs.

    `stop` ends the search before its next round of predictions, and is set when the search has ended. The field of a
    `BadInput` is one of `DesignRequest`, or empty.
    """
    limits, start, reason = answers.limits, None, ""
    if (request.start or "").strip():
        start = read_one(answers.tokenizer, request.start, limits, "start")
    options = _search_options(request, limits)
    constraints = _constraints(request, answers.tokenizer.strand_length)
    try:
        sequence = with_flanks(answers.tokenizer, start.sequence) if start else _draw(answers, constraints)
    except ValueError as error:
        raise _broken_rule(str(error)) from error
    length = len(sequence) - len(with_flanks(answers.tokenizer, ""))
    if set(constraints.fixed_positions) == set(range(length)):
        raise BadInput("All positions are fixed: leave at least one to edit.", "positions")
    counts: SimpleQueue[int] = SimpleQueue()
    end = time.monotonic() + limits.design_seconds

    def should_stop(num_predictions: int) -> bool:
        nonlocal reason
        counts.put(num_predictions)
        if stop.is_set():
            reason = "Stopped."
        elif time.monotonic() > end:
            reason = f"This took longer than {limits.design_seconds:.0f} seconds: ask for fewer edits or designs."
        return reason != ""

    with ThreadPoolExecutor(1) as executor:
        search = executor.submit(
            design, answers.predictor, [sequence], options, constraints=constraints, should_stop=should_stop
        )
        try:
            while not search.done():
                with suppress(Empty):
                    yield counts.get(timeout=0.2)
            designs = tuple(search.result())
        except ValueError as error:
            raise _broken_start(str(error)) from error
        finally:
            stop.set()
    yield DesignedPromoters(start, designs, reason, _warn_of_target(options.target, answers))


def _draw(answers: Answers, constraints: Constraints) -> str:
    """Draw a random start."""
    return random_starts(answers.predictor, constraints=constraints, seed=secrets.randbelow(2**31))[0]


def _broken_start(message: str) -> BadInput:
    """Reword the problem of a start for users."""
    broken = message.removeprefix("start 0: ").replace("breaks a constraint", "the start breaks a rule")
    return _broken_rule(f"{broken}. Edit the start first" + (", or loosen the rule" if "rule" in broken else ""))


def _broken_rule(message: str) -> BadInput:
    """Reword a broken constraint for users, with the GC content in percent."""

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
        f"{target:g} is outside the range of the {split} promoters ({low:.3g} to {high:.3g}): designs may not "
        "reach it.".replace("-", "−"),  # noqa: RUF001
    )


def _search_options(request: DesignRequest, limits: Limits) -> SearchOptions:
    """Make the options of the search, within the limits."""
    target: str | float | None = request.target
    if target == "value":
        target = request.value
        if target is None:
            raise BadInput("Enter the wanted expression in assay units.", "value")
    if not 1 <= request.max_edits <= limits.edits:
        raise BadInput(f"Choose 1 to {plural(limits.edits, 'edit')}.", "max_edits")
    if not 1 <= request.num_designs <= limits.designs:
        raise BadInput(f"Choose 1 to {plural(limits.designs, 'design')}.", "num_designs")
    method = "gradient" if request.quick else "greedy"
    try:
        return SearchOptions(target, int(request.max_edits), method, int(request.num_designs))
    except ValueError as error:
        raise BadInput(to_sentence(str(error)), "value") from error


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
