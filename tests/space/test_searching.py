import time
from threading import Event, Thread
from types import SimpleNamespace

import pytest

from modeling_macaron.analysis.constraints import Constraints
from modeling_macaron.analysis.design import SearchOptions, design
from space.app import Searches
from space.reading import BadInput, Limits
from space.searching import DesignedPromoters, DesignRequest, search_designs

START = "ACGTTTATATAAGGCACGTA"


def test_designs_equal_those_of_the_library(answers, tiny_folder):
    request = DesignRequest("ACCA" + START + "GGT", "lower", max_edits=3, num_designs=2, gc_percent=(None, 60),
                            sites="GAATTC", positions="1-3")  # fmt: skip
    *progress, last = search_designs(answers, request, Event())
    options = SearchOptions("lower", max_edits=3, num_designs=2)
    expected = design(tiny_folder, [START], options, constraints=Constraints((0, 0.6), ("GAATTC",), (0, 1, 2)))
    assert isinstance(last, DesignedPromoters) and last.reason == "" and last.start.sequence == START
    assert [one.sequence for one in last.designs] == [one.sequence for one in expected]
    assert [one.expression for one in last.designs] == pytest.approx([one.expression for one in expected], rel=1e-6)
    assert progress and progress == sorted(progress) and progress[-1] <= 1 + 2 * 3 * 3 * 17


def test_target_values_and_random_starts(answers):
    *_, near = search_designs(answers, DesignRequest(START, "value", 11.0, quick=True), Event())
    assert abs(near.designs[0].expression - 11.0) <= abs(near.designs[0].start_expression - 11.0)
    starts = set()
    for _ in range(3):
        *_, found = search_designs(answers, DesignRequest(" ", max_edits=1, quick=True), Event())
        assert found.start is None and len(found.designs[0].start) == 20
        starts.add(found.designs[0].start)
    assert len(starts) > 1


def test_a_search_can_be_stopped(answers):
    stop = Event()
    stop.set()
    *_, last = search_designs(answers, DesignRequest(START, max_edits=10, num_designs=3), stop)
    assert last.reason == "Stopped." and [one.sequence for one in last.designs] == [START]


def test_targets_beyond_the_measurements_give_a_warning(answers, reference, monkeypatch):
    monkeypatch.setattr(answers, "reference", reference)
    for target, warned in ((100.0, True), (-1.5, True), (0.5, False), (1.6, False)):
        *_, last = search_designs(answers, DesignRequest(START, "value", target, max_edits=1, quick=True), Event())
        assert bool(last.warnings) == warned
        assert (
            not warned
            or f"{target:g} is outside the range of the training promoters (-1.4 to 1.66)".replace("-", "\u2212")
            in last.warnings[0]
        )


def test_the_searches_of_a_session_are_stopped_one_by_one():
    searches, one, other = Searches(), SimpleNamespace(session_hash="one"), SimpleNamespace(session_hash="other")
    first = searches.begin(one)[0]
    stop = searches.of(one, first)
    others = searches.begin(other)[0]
    second = searches.begin(one)[0]
    assert stop.is_set() and not searches.of(one, second).is_set() and not searches.of(other, others).is_set()
    searches.end(one, first)
    assert searches.offer_stop(one)["interactive"] and not searches.of(one, second).is_set()
    searches.end(one, second)
    assert not searches.offer_stop(one)["interactive"] and searches.offer_stop(other)["interactive"]
    searches.leave(other)
    assert searches.of(other, others).is_set() and searches.of(one, others).is_set()


def test_a_search_that_waits_is_stopped_by_the_next_one():
    """Both start before the first leaves the queue."""
    searches, one = Searches(), SimpleNamespace(session_hash="one")
    first, second = searches.begin(one)[0], searches.begin(one)[0]
    assert searches.of(one, first).is_set()
    stop = searches.of(one, second)
    searches.end(one, first)
    assert not stop.is_set() and searches.offer_stop(one)["interactive"]
    searches.stop(one)
    assert stop.is_set()


def test_abandoned_searches_end(answers):
    stop = Event()
    search = search_designs(answers, DesignRequest(START, max_edits=10, num_designs=3), stop)
    next(search)
    closing = Thread(target=search.close)
    closing.start()
    closing.join(20)
    assert not closing.is_alive() and stop.is_set()


def test_a_search_that_takes_too_long_ends(answers, monkeypatch):
    monkeypatch.setattr(answers, "limits", Limits(design_seconds=0.0))
    began = time.monotonic()
    *_, last = search_designs(answers, DesignRequest(START, max_edits=10, num_designs=3), Event())
    assert "longer than 0 seconds" in last.reason and time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"start": "ACGX"}, "start", "“X” at position 4"),
        ({"start": "ACGN"}, "start", "Position 4 .counted from 1. is not A, C, G or T"),
        (
            {"sites": "TATA"},
            "start",
            "The start breaks a rule: it has the forbidden site TATA at position 6 .*Edit the start first, or loosen",
        ),
        ({"gc_percent": (80, 90)}, "gc", "The start .* GC content 35 % is outside 80 to 90 %. Edit the start"),
        ({"gc_percent": (22, 24), "start": ""}, "gc", "None of 1000 .* GC content 25 % is outside 22 to 24 %"),
        ({"positions": "1-20"}, "positions", "All positions are fixed: leave at least one"),
        ({"positions": "20", "start": "ACGT"}, "start", "position 20"),
        ({"target": "value", "value": None}, "value", "Enter the wanted expression"),
        ({"target": "value", "value": float("nan")}, "value", "Target must be"),
        ({"target": "up"}, "value", "Target must be"),
        ({"max_edits": 0}, "max_edits", "Choose 1 to 10 edits"),
        ({"max_edits": 11}, "max_edits", "Choose 1 to 10 edits"),
        ({"num_designs": 4}, "num_designs", "Choose 1 to 3 designs"),
        ({"gc_percent": (60, 40)}, "gc", "from a smaller to a larger percentage, not 60 to 40"),
        ({"gc_percent": (0, 101)}, "gc", "in percent, 0 to 100, not 0 to 101"),
        ({"gc_percent": (-5, 200)}, "gc", "in percent, 0 to 100, not -5 to 200"),
        ({"sites": "GAAXTC"}, "sites", "'GAAXTC' is not DNA"),
        ({"sites": "NNN"}, "sites", "matches every sequence"),
        ({"positions": "0"}, "positions", "0 does not lie within 1 to 20"),
    ],
)
def test_invalid_searches(answers, fields, field, message):
    with pytest.raises(BadInput, match=message) as caught:
        list(search_designs(answers, DesignRequest(**{"start": START, **fields}), Event()))
    assert caught.value.field == field
