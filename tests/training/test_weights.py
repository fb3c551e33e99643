"""Row weights from the table to the loss."""

import json

import datasets
import numpy as np
import pytest
import torch

from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.io.tables import open_table
from modeling_macaron.training.collator import PromoterCollator
from modeling_macaron.training.dataset import PreparedData
from scripts.prepare_data import main as prepare
from tests.batches import random_batch
from tests.data.test_prepare import random_dna, write_tsv
from tests.training.runs import SHORT, make_trainer, options, run, tiny_model
from tests.training.test_trainer import gradients_of_first_step

HEADER = ("sequence", "expression", "noise", "split")


def table_of(folder, rows):
    """Write a table of 40 nt promoters from rows (value, weight, split)."""
    sequences = random_dna(len(rows), length=40)
    return write_tsv(folder, [HEADER, *((sequence, *row) for sequence, row in zip(sequences, rows, strict=True))])


def prepare_table(source, output, **options):
    options = {"weight_column": "noise", "split_by": "row", **options}
    prepare_dataset(open_table(source, split_column="split"), output, **options)
    return output


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    """64 training rows with weights of 0.25 to 4, and 8 for validation."""
    folder, rng = tmp_path_factory.mktemp("weighted"), np.random.default_rng(0)
    weights = 2.0 ** rng.integers(-2, 3, 72)
    splits = ["train"] * 64 + ["validation"] * 8
    return prepare_table(table_of(folder, list(zip(rng.normal(size=72), weights, splits, strict=True))), folder / "out")


def test_weights_are_stored(weighted):
    data = PreparedData(weighted)
    batch = data.train.__getitems__([0, 5, 9])
    assert batch["weight"].dtype == np.float32 and data.report["weight_column"] == "noise"
    rows = datasets.load_from_disk(str(weighted))["train"]
    np.testing.assert_array_equal(batch["weight"], np.array(rows["weight"][:])[[0, 5, 9]])
    assert set(rows["weight"][:]) == {0.25, 0.5, 1.0, 2.0, 4.0}


def test_other_weights_change_the_fingerprint(tmp_path):
    fingerprints = set()
    for weight in ("1", "2"):
        source = table_of(tmp_path, [(1.0, weight, "train"), (2.0, 1.0, "train"), (1.0, 1.0, "validation")])
        report = PreparedData(prepare_table(source, tmp_path / weight)).report
        fingerprints.add(report["splits"]["train"]["fingerprint"])
    assert len(fingerprints) == 2


def test_command_line(tmp_path, capsys):
    source = table_of(tmp_path, [(1.0, 3, "train"), (2.0, 1, "train"), (1.0, 1, "validation")])
    arguments = ["--source", str(source), "--output", str(tmp_path / "out"), "--split_column", "split"]
    prepare([*arguments, "--weight_column", "noise"])
    assert PreparedData(tmp_path / "out").train.has_weights
    prepare([*arguments, "--overwrite"])
    assert not PreparedData(tmp_path / "out").train.has_weights
    with pytest.raises(SystemExit, match="there is no weight column 'other'"):
        prepare([*arguments, "--overwrite", "--weight_column", "other"])


@pytest.mark.parametrize("weight", ["", "0", "-1", "nan", "1e60", "heavy", "1e-60"])
def test_weight_that_is_not_positive_is_named(tmp_path, weight):
    source = table_of(tmp_path, [(1.0, 1, "train"), (2.0, weight, "train"), (1.0, 1, "validation")])
    with pytest.raises(ValueError, match=rf"table.tsv, line 3: weight '{weight}' in column 'noise' is not a positive"):
        prepare_table(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_duplicates_are_averaged_by_weight(tmp_path):
    one, two, three = random_dna(3, length=40)
    rows = [(one, 1.0, 1, "train"), (two, 5.0, 2, "train"), (one, 4.0, 3, "train"), (three, 0.0, 1, "validation")]
    source = write_tsv(tmp_path, [HEADER, *rows])
    train = PreparedData(prepare_table(source, tmp_path / "out", average_duplicates=True)).train.__getitems__([0, 1])
    np.testing.assert_allclose(train["labels"], [3.25, 5.0])
    np.testing.assert_allclose(train["weight"], [4.0, 2.0])


def test_collator_returns_weights_in_training_only(weighted):
    data = PreparedData(weighted)
    collator, batch = PromoterCollator(0.0, 1.0), data.train.__getitems__([1, 2])
    np.testing.assert_array_equal(collator(batch)["row_weights"], batch["weight"])
    rows = datasets.load_from_disk(str(weighted))["train"].select([1, 2]).to_list()
    np.testing.assert_array_equal(collator(rows)["row_weights"], batch["weight"])
    assert "row_weights" not in collator.for_evaluation()(batch)


@pytest.mark.parametrize("bins", [None, (-1.0, 0.0, 1.0)])
def test_loss_is_the_weighted_mean(make_model, bins):
    model, batch = make_model(expression_bins=bins), random_batch(3)
    outputs = model(**batch, row_weights=torch.tensor([1.0, 2.0, 5.0]))
    expected = np.average(outputs.row_losses.detach(), weights=[1, 2, 5])
    assert outputs.expression_loss.item() == pytest.approx(expected, rel=1e-6)
    plain = model(**batch)
    assert outputs.reconstruction_loss.item() == plain.reconstruction_loss.item()
    equal = model(**batch, row_weights=torch.full((3,), 7.0))
    assert equal.loss.item() == pytest.approx(plain.loss.item(), rel=1e-6)
    del batch["masked_nucleotides"]
    twice = {name: values[[0, 1, 1, 2]] for name, values in batch.items()}
    weighted = model(**batch, row_weights=torch.tensor([1.0, 2.0, 1.0]))
    assert weighted.loss.item() == pytest.approx(model(**twice).loss.item(), rel=1e-6)


@pytest.mark.slow
def test_accumulation_is_exact(weighted, tmp_path):
    seen = []
    for parts in (1, 4):
        steps = {"per_device_train_batch_size": 8 // parts, "gradient_accumulation_steps": parts}
        trainer = make_trainer(
            weighted, tmp_path / str(parts), tiny_model(strand_length=100), max_grad_norm=0.0, **steps
        )
        seen.append(gradients_of_first_step(trainer))
    (whole, logged), (parts, logged_parts) = seen
    for name in ("loss", "expression_loss", "reconstruction_loss"):
        assert logged_parts[name] == pytest.approx(logged[name], rel=1e-5), name
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_validation_is_not_weighted(weighted, tmp_path):
    trainer = make_trainer(weighted, tmp_path, tiny_model(strand_length=100))
    data = PreparedData(weighted)
    batch = trainer.data_collator.for_evaluation()(data.validation.__getitems__(range(8)))
    with torch.no_grad():
        expected = trainer.model.eval()(batch["input_ids"], labels=batch["labels"]).loss.item()
    assert trainer.evaluate()["eval_expression_loss"] == pytest.approx(expected, rel=1e-5)


def test_run_and_its_card(weighted, tmp_path):
    short = [*SHORT, *options(global_batch_size=16, reconstruction_weight=0)]
    final = run(weighted, tmp_path / "run", *short)
    assert json.loads((final / "training.json").read_text())["weight_column"] == "noise"
    assert "| Row weights | column `noise` |" in (final / "README.md").read_text()
    with pytest.raises(ValueError, match="prepare the data set without --weight_column"):
        run(weighted, tmp_path / "stream", *short, "--stream", "x.parquet")
