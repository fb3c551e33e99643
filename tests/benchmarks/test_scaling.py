"""Scaling over GPUs: arithmetic of an exchange that hides behind the backward pass, or does not."""

import pytest

from benchmarks import scaling


@pytest.fixture
def report():
    rows = [
        {"batch_size": size, "ms": ms, "compiled": True, "projections": "separate"}
        for size, ms in ((512, 90.0), (128, 30.0), (64, 15.0), (8, 12.0))
    ]
    slower = [{**row, "ms": 2 * row["ms"], "compiled": False} for row in rows]
    merged = [{**row, "ms": 0.5 * row["ms"], "projections": "merged"} for row in rows]
    return {"tables": {"train": [*slower, *rows, *merged]}}


def test_gradients_are_those_of_the_paper():
    assert scaling.gradient_bytes() == 4 * 47_425_543


def test_exchange_hides_behind_the_backward_pass_as_far_as_it_can(report):
    one, four, eight, fast, slow = scaling.steps(report, grows=False)
    assert [step.batch_size for step in (one, four, eight, fast, slow)] == [512, 128, 64, 8, 8]
    assert one.all_reduce_s == 0 and one.seconds == 0.090
    assert four.all_reduce_s == pytest.approx(1.5 * 189.7e6 / 450e9, rel=1e-3)
    assert four.seconds == 0.030 and four.sequences_per_s == pytest.approx(512 / 0.030)
    assert slow.all_reduce_s == pytest.approx(2 * 63 / 64 * 189.7e6 / 12.5e9, rel=1e-3)
    assert slow.seconds == pytest.approx(0.012 + slow.all_reduce_s - 0.008)
    assert fast.seconds == 0.012


def test_batch_may_grow_with_the_gpus(report):
    steps = scaling.steps(report, grows=True)
    assert {step.batch_size for step in steps} == {512}
    assert steps[2].sequences_per_s == pytest.approx(8 * steps[0].sequences_per_s)


def test_measured_gpus_can_be_tabulated():
    rows = scaling.render_scaling().splitlines()
    assert len([row for row in rows if row.startswith("| ")]) == 2 + 9
