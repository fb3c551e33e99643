"""Both strands, labels and masks of a batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modeling_macaron.training.collator import PromoterCollator

LENGTH = 30
COMPLEMENT = {0: 3, 1: 2, 2: 1, 3: 0, 4: 4}


def batch_of(input_ids, epoch=0, first_row=0):
    rows = np.arange(first_row, first_row + len(input_ids))
    labels = np.linspace(-1, 20, len(input_ids), dtype=np.float32)
    return {"input_ids": input_ids, "labels": labels, "row": rows, "epoch": epoch}


def random_ids(rows, length=LENGTH, seed=0):
    return np.random.default_rng(seed).integers(0, 5, (rows, length), dtype=np.uint8)


def masked_positions(collated):
    return (collated["masked_nucleotides"] != -100).numpy()


@given(hnp.arrays(np.uint8, (3, LENGTH), elements=st.integers(0, 4)))
@settings(max_examples=50, deadline=None)
def test_second_half_is_the_reverse_complement(input_ids):
    collated = PromoterCollator(0.0, 1.0, evaluation=True)(batch_of(input_ids))
    for row, both in zip(input_ids.tolist(), collated["input_ids"].tolist(), strict=True):
        assert both == row + [COMPLEMENT[base] for base in reversed(row)]


@pytest.mark.parametrize("strands", ["independent", "paired"])
def test_masked_nucleotides_are_hidden_and_are_the_targets(strands):
    batch = batch_of(random_ids(200))
    collated = PromoterCollator(0.0, 1.0, mask_probability=0.3, strands=strands)(batch)
    true_ids = PromoterCollator(0.0, 1.0, evaluation=True)(batch)["input_ids"]
    masked = masked_positions(collated)
    assert (collated["input_ids"].numpy()[masked] == 5).all()
    np.testing.assert_array_equal(collated["input_ids"].numpy()[~masked], true_ids.numpy()[~masked])
    np.testing.assert_array_equal(collated["masked_nucleotides"].numpy()[masked], true_ids.numpy()[masked])
    assert not masked[true_ids.numpy() == 4].any(), "N is never a target"


@pytest.mark.parametrize("strands", ["independent", "paired"])
def test_share_of_masked_nucleotides(strands):
    input_ids = np.random.default_rng(1).integers(0, 4, (2000, 100), dtype=np.uint8)
    masked = masked_positions(PromoterCollator(0.0, 1.0, strands=strands)(batch_of(input_ids)))
    assert masked.mean() == pytest.approx(0.05, abs=0.002)
    assert masked.mean(axis=0).max() < 0.08, "no position is preferred"


def test_paired_masks_hide_a_nucleotide_on_both_strands():
    masked = masked_positions(PromoterCollator(0.0, 1.0, strands="paired")(batch_of(random_ids(500))))
    np.testing.assert_array_equal(masked[:, :LENGTH], masked[:, LENGTH:][:, ::-1])
    independent = masked_positions(PromoterCollator(0.0, 1.0)(batch_of(random_ids(500))))
    both = independent[:, :LENGTH] & independent[:, LENGTH:][:, ::-1]
    assert both.sum() < 0.2 * independent[:, :LENGTH].sum()


@given(hnp.arrays(np.uint8, (4, 12), elements=st.integers(0, 4)), st.integers(1, 20), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_shift_moves_padding_and_loses_nothing(input_ids, max_shift, epoch):
    input_ids[:, :3] = input_ids[:, -2:] = 4
    collator = PromoterCollator(0.0, 1.0, mask_probability=0.0, max_shift=max_shift)
    shifted = collator(batch_of(input_ids, epoch))["input_ids"].numpy()
    for row, both in zip(input_ids, shifted, strict=True):
        forward = both[:12]
        np.testing.assert_array_equal(both[12:], [COMPLEMENT[base] for base in forward[::-1]])
        before, after = np.flatnonzero(row != 4), np.flatnonzero(forward != 4)
        np.testing.assert_array_equal(forward[after], row[before])
        moved = after - before
        assert len(set(moved.tolist())) <= 1 and (np.abs(moved) <= max_shift).all()


def test_shifts_are_uniform():
    input_ids = np.full((4000, 12), 4, np.uint8)
    input_ids[:, 5:9] = [0, 1, 2, 3]  # 5 to the left, 3 to the right
    collator = PromoterCollator(0.0, 1.0, mask_probability=0.0, max_shift=4)
    starts = (collator(batch_of(input_ids))["input_ids"].numpy()[:, :12] == 0).argmax(axis=1)
    counts = np.bincount(starts, minlength=12)
    assert counts[1:9].min() > 400 and counts[1:9].sum() == 4000, "8 shifts, 500 each"
    again = (collator(batch_of(input_ids, epoch=1))["input_ids"].numpy()[:, :12] == 0).argmax(axis=1)
    assert (starts != again).mean() > 0.8


def test_rows_are_reverse_complemented_in_training_only():
    input_ids = np.random.default_rng(0).integers(0, 4, (2000, LENGTH), dtype=np.uint8)
    plain = PromoterCollator(0.0, 1.0, mask_probability=0.0)(batch_of(input_ids))["input_ids"].numpy()
    collator = PromoterCollator(0.0, 1.0, mask_probability=0.0, reverse_probability=0.3, max_shift=2)
    both = collator(batch_of(input_ids))["input_ids"].numpy()
    turned = (both != plain).any(axis=1)
    np.testing.assert_array_equal(both[turned], np.concatenate([plain[:, LENGTH:], plain[:, :LENGTH]], axis=1)[turned])
    assert turned.mean() == pytest.approx(0.3, abs=0.04)
    evaluated = collator.for_evaluation()(batch_of(input_ids))["input_ids"].numpy()
    np.testing.assert_array_equal(evaluated, plain)


def test_mask_of_a_row_does_not_depend_on_its_batch():
    input_ids = random_ids(64)
    collator = PromoterCollator(0.0, 1.0, mask_probability=0.2)
    whole = masked_positions(collator(batch_of(input_ids)))
    for start in (0, 16, 48):
        part = masked_positions(collator(batch_of(input_ids[start : start + 16], first_row=start)))
        np.testing.assert_array_equal(part, whole[start : start + 16])


def test_masks_change_with_epoch_and_seed_and_stay_in_evaluation():
    input_ids = random_ids(200)
    collator = PromoterCollator(0.0, 1.0)
    first, second = (masked_positions(collator(batch_of(input_ids, epoch))) for epoch in (0, 1))
    other_seed = masked_positions(PromoterCollator(0.0, 1.0, seed=1)(batch_of(input_ids)))
    assert (first != second).any()
    assert (first != other_seed).any()
    overlap = (first & second).sum() / first.sum()
    assert overlap < 0.1, "epochs draw independently"
    evaluation = collator.for_evaluation()
    np.testing.assert_array_equal(
        masked_positions(evaluation(batch_of(input_ids, 0))), masked_positions(evaluation(batch_of(input_ids, 7)))
    )


def test_labels_are_standardized():
    batch = batch_of(random_ids(5))
    labels = PromoterCollator(11.15, 2.35)(batch)["labels"].numpy()
    np.testing.assert_allclose(labels, (batch["labels"].astype(np.float64) - 11.15) / 2.35, rtol=1e-6)


def test_rows_of_a_datasets_dataset_give_the_same():
    batch = batch_of(random_ids(7))
    collator = PromoterCollator(1.0, 2.0, mask_probability=0.2)
    rows = [
        {"input_ids": batch["input_ids"][i].tolist(), "labels": float(batch["labels"][i]), "row": int(batch["row"][i])}
        for i in range(7)
    ]
    from_rows, from_batch = collator(rows), collator(batch)
    assert from_rows.keys() == from_batch.keys()
    for name, values in from_batch.items():
        np.testing.assert_array_equal(from_rows[name], values, err_msg=name)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mask_probability", 1.0), ("mask_probability", -0.1), ("strands", "both"), ("reverse_probability", 1.5),
        ("max_shift", -1),
    ],
)  # fmt: skip
def test_impossible_settings_are_rejected(field, value):
    with pytest.raises(ValueError, match=field):
        PromoterCollator(0.0, 1.0, **{field: value})
