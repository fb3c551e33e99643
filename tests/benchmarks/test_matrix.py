"""Counts of the tests on other versions: what did not end well has failed."""

import pytest

from benchmarks.matrix import LEFT_OUT, LEFT_OUT_OF_LOWEST, ROOT, count_tests


@pytest.mark.parametrize(
    ("told", "exit_code", "expected"),
    [
        ("...\n953 passed, 10 deselected in 9.1s\n", 0, (953, 0, 0)),
        ("FAILED x - 3 failed to load\n2 failed, 951 passed, 7 skipped, 1 error in 9.1s\n", 1, (951, 3, 7)),
        ("!!! Interrupted: 1 error during collection !!!\n1 error in 9.1s\n", 2, (0, 1, 0)),
        ("INTERNALERROR> OSError\n40 passed in 9.1s\n", 3, (40, 1, 0)),
        ("no tests ran in 0.1s\n", 5, (0, 1, 0)),
        ("", 4, (0, 1, 0)),
    ],
)
def test_counts(told, exit_code, expected):
    assert tuple(count_tests(told, exit_code)[kind] for kind in ("passed", "failed", "skipped")) == expected


def test_what_is_left_out_is_there():
    assert [path for path in LEFT_OUT | LEFT_OUT_OF_LOWEST if not (ROOT / path).exists()] == []
