"""Attribution and mutagenesis find learned motifs."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.analysis.attribution import gradient_x_input, integrated_gradients
from modeling_macaron.analysis.mutagenesis import base_importance, saturation_mutagenesis
from modeling_macaron.predictor import Predictor
from tokenization import KmerTokenizer

LENGTH = 40
MOTIFS = {"TGACTCA": 1.0, "CCGGGTAA": -1.0}  # Gcn4 and Reb1, with effects that add


def planted(rows, seed):
    """Random promoters with one, both or no motifs, their values and marks at planted bases."""
    generator = np.random.default_rng(seed)
    bases = generator.choice(list("ACGT"), (rows, LENGTH))
    marks, values = np.zeros((rows, LENGTH), bool), np.zeros(rows)
    for half, (motif, effect) in enumerate(MOTIFS.items()):
        for row in np.flatnonzero(generator.random(rows) < 0.5):
            start = half * LENGTH // 2 + int(generator.integers(LENGTH // 2 - len(motif)))
            bases[row, start : start + len(motif)] = list(motif)
            marks[row, start : start + len(motif)] = True
            values[row] += effect
    return ["".join(row) for row in bases], values, marks


@pytest.fixture(scope="module")
def learnt():
    """A small model trained on the motifs."""
    sequences, values, _ = planted(4096, seed=0)
    tokenizer = KmerTokenizer(kmer_size=8, strand_length=LENGTH)
    ids, labels = tokenizer(sequences, return_tensors="pt")["input_ids"], torch.tensor(values, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MacaronForExpressionPrediction(
            MacaronConfig(
                kmer_size=8, strand_length=LENGTH, hidden_size=32, head_dim=32, num_attention_heads=1,
                num_hidden_layers=1, intermediate_size=64, conv_kernel_size=5, num_expression_positions=4,
                hidden_dropout=0.0, reconstruction_weight=0.0,
            )
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=640)
        for _ in range(10):
            for batch in torch.randperm(len(ids)).split(64):
                model(ids[batch], labels=labels[batch]).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
    return Predictor.from_pretrained(model, tokenizer=tokenizer)


def mean_auroc(scores, marks):
    return np.mean([roc_auc_score(mark, np.abs(score)) for score, mark in zip(scores, marks, strict=True)])


@pytest.mark.slow
def test_bases_of_planted_motifs_stand_out(learnt):
    sequences, values, marks = planted(400, seed=1)
    assert pearsonr(learnt.predict(sequences), values).statistic > 0.95, "the model has learnt them"
    some = np.flatnonzero(marks.any(axis=1))[:100]
    sequences, marks = [sequences[row] for row in some], marks[some]
    importance = [base_importance(result) for result in saturation_mutagenesis(learnt, sequences)]
    assert mean_auroc(importance, marks) > 0.95
    integrated = integrated_gradients(learnt, sequences, steps=512)
    assert mean_auroc(integrated.per_base, marks) > 0.9
    assert mean_auroc(gradient_x_input(learnt, sequences).per_base, marks) > 0.85
    difference = learnt.predict(sequences) - integrated.baseline_expression
    errors = np.abs(integrated.completeness_error) / np.abs(difference)
    assert np.quantile(errors[np.abs(difference) > 0.1], 0.95) < 0.01
