"""The page on reliability shows what the committed runs found, no more."""

import json

import pytest

from benchmarks import reliability
from benchmarks.pages import render_block


@pytest.mark.parametrize("name", reliability.BLOCKS)
def test_the_page_shows_the_committed_results(name):
    block = render_block(name, reliability.BLOCKS[name]())
    assert block in reliability.PAGE.read_text(encoding="utf-8"), "python -m benchmarks.reliability"


@pytest.fixture
def change(tmp_path, monkeypatch):
    """Render after a change of a file of results."""

    def render(name, what):
        report = reliability.read(name)
        what(report["tables"])
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
        monkeypatch.setattr(reliability, "FOLDER", tmp_path)
        return reliability.BLOCKS["versions" if name == "matrix" else name]()

    return render


@pytest.mark.parametrize(("same", "told"), [(True, "the same bytes"), (False, "OTHER BYTES")])
def test_bytes_are_what_was_found(change, same, told):
    def set_it(tables):
        tables["prediction"][0]["same_bytes"] = same

    (line,) = [line for line in change("faults", set_it).splitlines() if line.startswith("| prediction")]
    assert told in line


def test_where_kills_fell_is_what_was_counted(change):
    def set_it(tables):
        tables["training"] = [{"processes": 2, "kills": 9, "difference": 0.5, "in_a_checkpoint": 4, "in_a_half_one": 1,
                               "in_the_result": 2, "before_any": 3}]  # fmt: skip
        tables["prediction"] = [{"kills": 8, "half_outputs": 0, "at_work": 7, "in_the_joining": 6, "same_bytes": True}]
        del tables["disk_full"]

    told = change("faults", set_it)
    assert "| training, 2 processes | 9 | weights differ by 0.5 | 4 in a checkpoint's writing (1 of them" in told
    assert "7 after work began, 6 of them in the joining" in told and "Full disks were left out." in told


def test_what_other_versions_were_not_tested_on_is_told(change):
    def set_it(tables):
        tables["matrix"][0] |= {"skipped": 17}
        tables["left_out"] = [{"tests": "tests/there", "reason": "a reason"}]

    told = change("matrix", set_it)
    assert "| 17 |" in told and "| `tests/there` | a reason |" in told
