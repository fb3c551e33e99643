"""Slow reference versions, tables and commands for tests of the analysis commands."""

import importlib
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.predictor import Predictor

EFFECTS = ["reference_expression", "alternative_expression", "delta"]


def explicit_predictions(folder, tokenizer):
    """Return a function that predicts one sequence with one forward pass."""
    model = MacaronForExpressionPrediction.from_pretrained(folder).eval()

    @cache
    def predict(sequence):
        with torch.no_grad():
            logits = model(**tokenizer(sequence, return_tensors="pt")).logits.double().item()
        return logits * model.config.expression_std + model.config.expression_mean

    return predict


def failing_predictor(folder, call, batch_size):
    """Return a predictor interrupted in its `call`-th forward pass, and the sizes of its batches."""
    predictor, sizes = Predictor.from_pretrained(folder, batch_size=batch_size), []

    def count(_, args, kwargs, __):
        sizes.append(len(args[0] if args else kwargs["inputs_embeds"]))
        if len(sizes) == call:
            raise KeyboardInterrupt

    predictor.model.register_forward_hook(count, with_kwargs=True)
    return predictor, sizes


def slow_reverse_complement(sequence):
    pairs = {"A": "T", "C": "G", "G": "C", "T": "A", "U": "A", "N": "N"}
    return "".join(pairs[base] for base in reversed(sequence.upper()))


def slow_apply(sequence, start, reference, alternative):
    """Apply an allele base by base."""
    bases = []
    for position in range(len(sequence) + 1):
        if position == start:
            bases.extend(alternative)
        if position < len(sequence) and not start <= position < start + len(reference):
            bases.append(sequence[position])
    return "".join(bases)


def write(frame, path):
    """Write a table in the format of its suffix. FASTA has the columns `name` and `sequence`."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".fa":
        path.write_text("".join(f">{row['name']}\n{row['sequence']}\n" for row in frame.to_dict("records")))
    else:
        frame.to_csv(path, sep="," if ".csv" in path.name else "\t", index=False)
    return path


def read(path):
    """Read an output. Missing numbers are NaN, and empty problems are empty strings."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    frame = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", keep_default_na=False, na_values=[""])
    return frame.assign(problem=frame["problem"].fillna(""))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def run_script(name, *arguments):
    """Run a command line in this process."""
    importlib.import_module(f"scripts.{name}").main([str(argument) for argument in arguments])


def error_of(name, *arguments):
    """Run a command line that fails, and return its one line of error."""
    with pytest.raises(SystemExit) as stop:
        run_script(name, *arguments)
    assert str(stop.value.code).startswith("error: ") and "\n" not in stop.value.code
    return stop.value.code


def assert_effects(frame, expected):
    """Compare the rows of an output with pairs (reference, alternative), or None for a problem."""
    for row, pair in zip(frame.to_dict("records"), expected, strict=True):
        found = np.array([row[name] for name in EFFECTS], float)
        assert (row["problem"] == "") == (pair is not None), row
        if pair is None:
            assert np.isnan(found).all(), row
        else:
            np.testing.assert_allclose(found[:2], pair, rtol=1e-5)
            np.testing.assert_allclose(found[2], found[1] - found[0], atol=1e-9)
