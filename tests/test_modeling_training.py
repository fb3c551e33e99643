"""Training steps of the model, by hand and with a plain Trainer."""

import copy

import pytest
import torch
from transformers import Trainer, TrainingArguments

from modeling_macaron import MacaronForExpressionPrediction
from tests.batches import random_batch


@pytest.mark.parametrize("attention_projections", ["separate", "merged"])
@pytest.mark.parametrize("bins", [None, (-1.0, 0.0, 1.0)])
@pytest.mark.parametrize("pooling", ["expression_positions", "mean"])
def test_every_parameter_gets_a_gradient(make_model, pooling, bins, attention_projections):
    fields = {"pooling": pooling, "attention_projections": attention_projections, "expression_bins": bins}
    model = make_model(**fields, both_orientations=True).train()
    model(**random_batch()).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if name.endswith("expression_projection.weight"):
            assert (parameter.grad == 0).all()
        elif not name.endswith("k_proj.bias"):  # the softmax does not see a constant
            assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize("attention_projections", ["separate", "merged"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_autocast_step_is_finite(make_model, dtype, attn_implementation, attention_projections):
    fields = {"attn_implementation": attn_implementation, "attention_projections": attention_projections}
    model, batch = make_model(hidden_dropout=0.0, **fields).train(), random_batch(8)
    exact = copy.deepcopy(model).eval()(**batch)
    with torch.autocast("cpu", dtype=dtype):
        outputs = model(**batch)
    assert outputs.logits.dtype == dtype
    assert outputs.loss.dtype == torch.float32
    assert outputs.loss.item() == pytest.approx(exact.loss.item(), rel=0.1)
    outputs.loss.backward()
    torch.optim.Adam(model.parameters(), lr=1e-3).step()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all() and parameter.isfinite().all(), name


@pytest.mark.parametrize("most_masked", [None, 16, 32, 40])
@pytest.mark.parametrize("pooling", ["expression_positions", "mean"])
@pytest.mark.parametrize("attention_projections", ["separate", "merged"])
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_last_block_at_masked_bases_alone_gives_the_same_loss(
    make_model, attn_implementation, attention_projections, pooling, most_masked
):
    fields = {"attn_implementation": attn_implementation, "attention_projections": attention_projections}
    model = make_model(hidden_dropout=0.0, pooling=pooling, **fields).double().train()
    batch, results = random_batch(6), []
    queries = []
    model.macaron.layers[-1].feed_forward2.register_forward_hook(lambda *call: queries.append(call[2].shape[1]))
    for options in ({}, {"output_nucleotide_logits": False, "most_masked": most_masked}):
        model.zero_grad()
        outputs = model(**batch, **options)
        outputs.loss.backward()
        gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        results.append((outputs.loss, outputs.expression_loss, outputs.reconstruction_loss, outputs.logits, gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)
    assert outputs.nucleotide_logits is None
    whole = pooling == "mean" or most_masked == 40
    assert queries[1] == (queries[0] if whole else 3 + (most_masked or 16))


def test_loss_of_large_values_is_finite_in_half_precision(make_model):
    model, batch = make_model().half(), random_batch(2)
    with torch.no_grad():
        loss = model(batch["input_ids"], labels=torch.tensor([400.0, -400.0])).loss
    assert loss.item() == pytest.approx(160_000, rel=0.05)


@pytest.mark.parametrize("attention_projections", ["separate", "merged"])
@pytest.mark.parametrize("pooling", ["expression_positions", "mean"])
def test_loss_falls_on_eight_examples(make_config, pooling, attention_projections):
    torch.manual_seed(0)
    config = make_config(pooling=pooling, hidden_dropout=0.0, attention_projections=attention_projections)
    model = MacaronForExpressionPrediction(config).train()
    batch = random_batch(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        outputs = model(**batch)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
        losses.append((outputs.expression_loss.item(), outputs.reconstruction_loss.item()))
    assert losses[-1][0] < 0.1 * losses[0][0]
    assert losses[-1][1] < 0.8 * losses[0][1]


class Rows(torch.utils.data.Dataset):
    """Rows of `random_batch`, with or without the masked nucleotides."""

    def __init__(self, number, masked=False):
        self.batch = random_batch(number)
        if not masked:
            del self.batch["masked_nucleotides"]

    def __len__(self):
        return len(self.batch["labels"])

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.batch.items()}


def plain_trainer(folder, model, tokenizer=None, train_rows=None, **options):
    options = {"per_device_train_batch_size": 8, "max_steps": 6, "learning_rate": 1e-2, **options}
    arguments = TrainingArguments(folder, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, **options)
    train_rows = Rows(8) if train_rows is None else train_rows
    return Trainer(model, arguments, train_dataset=train_rows, eval_dataset=Rows(11), processing_class=tokenizer)


def test_plain_trainer_does_regression(tmp_path, make_model, tiny_tokenizer):
    trainer = plain_trainer(tmp_path, make_model(hidden_dropout=0.0), tiny_tokenizer)
    prediction = trainer.predict(Rows(11))
    assert prediction.predictions.shape == (11, 1) and prediction.label_ids.shape == (11,)
    before = trainer.evaluate()["eval_loss"]
    expected = ((prediction.predictions[:, 0] - prediction.label_ids) ** 2).mean()
    assert before == pytest.approx(float(expected), rel=1e-4)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    trainer.save_model(tmp_path / "final")
    files = {path.stem for path in (tmp_path / "final").glob("*.py")}
    assert files == {"configuration_macaron", "modeling_macaron", "pipeline_macaron", "tokenization_kmer"}


def test_plain_trainer_reconstructs_masked_nucleotides(tmp_path, make_model):
    model, rows = make_model(hidden_dropout=0.0), Rows(8, masked=True)
    with torch.no_grad():
        expected = model(**random_batch(8))
    assert expected.reconstruction_loss > 0.1
    trainer = plain_trainer(tmp_path, model, train_rows=rows, max_steps=1, logging_steps=1)
    assert trainer.predict(Rows(11)).predictions.shape == (11, 1)
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-4)
    assert trainer.predict(rows).label_ids.shape == (8,)
    trainer.train()
    assert trainer.state.log_history[-2]["loss"] == pytest.approx(expected.loss.item(), rel=1e-3)


def test_plain_trainer_does_not_inflate_the_loss_under_accumulation(tmp_path, make_model):
    weights = []
    for batch_size, steps in ((8, 1), (2, 4)):
        model = make_model(hidden_dropout=0.0)
        trainer = plain_trainer(
            tmp_path,
            model,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            optim="sgd",
            max_grad_norm=0.0,
            learning_rate=0.1,
            lr_scheduler_type="constant",
            logging_steps=1,
        )
        trainer.train()
        weights.append((trainer.state.log_history[0]["loss"], model.state_dict()))
    assert weights[0][0] == pytest.approx(weights[1][0], rel=1e-3)
    torch.testing.assert_close(weights[0][1], weights[1][1], rtol=1e-4, atol=1e-6)
