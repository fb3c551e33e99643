"""Slow, obvious versions of what variant effects are made of."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from modeling_macaron import MacaronForExpressionPrediction

SCRIPT = Path(__file__).parents[2] / "scripts" / "variants.py"
EFFECTS = ["reference_expression", "alternative_expression", "delta"]


def explicit_predictions(folder, tokenizer):
    """Return a function that predicts with one forward pass a sequence, written out."""
    model = MacaronForExpressionPrediction.from_pretrained(folder).eval()

    @cache
    def predict(sequence):
        with torch.no_grad():
            logits = model(**tokenizer(sequence, return_tensors="pt")).logits.double().item()
        return logits * model.config.expression_std + model.config.expression_mean

    return predict


def script_main():
    """Return the script's `main`, to be run in this process."""
    spec = importlib.util.spec_from_file_location("variants_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def slow_reverse_complement(sequence):
    pairs = {"A": "T", "C": "G", "G": "C", "T": "A", "U": "A", "N": "N"}
    return "".join(pairs[letter] for letter in reversed(sequence.upper()))


def slow_apply(sequence, start, reference, alternative):
    """Letter by letter: what stands before, the allele, what stands behind."""
    letters = []
    for position in range(len(sequence) + 1):
        if position == start:
            letters.extend(alternative)
        if position < len(sequence) and not start <= position < start + len(reference):
            letters.append(sequence[position])
    return "".join(letters)


def write(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if ".csv" in path.name else "\t", index=False)


def read(path):
    """Table with empty texts kept, and numbers missing where they are empty."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    missing = dict.fromkeys(EFFECTS, "")
    return pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", keep_default_na=False, na_values=missing)


def assert_effects(frame, expected):
    """Compare the rows of an output with pairs (reference, alternative), or None where there is a problem."""
    for row, pair in zip(frame.to_dict("records"), expected, strict=True):
        got = np.array([row[name] for name in EFFECTS])
        assert (row["problem"] == "") == (pair is not None), row
        if pair is None:
            assert np.isnan(got).all(), row
        else:
            np.testing.assert_allclose(got[:2], pair, rtol=1e-5)
            np.testing.assert_allclose(got[2], got[1] - got[0], atol=1e-9)
