"""Prediction of sequences and of files."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.analysis.predict import load_model, predict, predict_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "predict.py"
SEQUENCES = ["ACGTACGTAC", "acgu" * 4, "GGGG", "ACCATTTTGGT", "NRYACG"]


def explicit(folder, tokenizer, sequences):
    """One forward pass a sequence, written out."""
    model = MacaronForExpressionPrediction.from_pretrained(folder).eval()
    values = []
    for sequence in sequences:
        with torch.no_grad():
            logits = model(**tokenizer(sequence, return_tensors="pt")).logits.double().item()
        values.append(logits * model.config.expression_std + model.config.expression_mean)
    return np.array(values)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_predictions_equal_explicit_forward_passes(tiny_folder, tiny_tokenizer, batch_size):
    expected = explicit(tiny_folder, tiny_tokenizer, SEQUENCES)
    assert expected.std() > 1e-3, "the model tells sequences apart"
    np.testing.assert_allclose(predict(tiny_folder, SEQUENCES, batch_size=batch_size), expected, rtol=1e-5)


def test_loaded_model_predicts_like_its_folder(tiny_folder, tiny_tokenizer):
    model = MacaronForExpressionPrediction.from_pretrained(tiny_folder)
    expected = predict(tiny_folder, SEQUENCES)
    np.testing.assert_array_equal(predict(model, SEQUENCES), expected)
    np.testing.assert_array_equal(predict(model, SEQUENCES, tokenizer=tiny_tokenizer), expected)
    assert not model.training


@pytest.mark.parametrize("options", [{"merged": True}, {"dtype": "float64"}, {"merged": True, "dtype": torch.float64}])
def test_merged_and_converted_models_predict_the_same(tiny_folder, options):
    expected = predict(tiny_folder, SEQUENCES)
    np.testing.assert_allclose(predict(tiny_folder, SEQUENCES, **options), expected, rtol=1e-5)
    model, _ = load_model(tiny_folder, **options)
    assert model.config.attention_projections == ("merged" if options.get("merged") else "separate")
    assert model.dtype == (torch.float64 if "dtype" in options else torch.float32)


def test_bfloat16_predicts_nearly_the_same(tiny_folder):
    expected = predict(tiny_folder, SEQUENCES)
    got = predict(tiny_folder, SEQUENCES, dtype="bfloat16")
    assert not np.array_equal(got, expected)
    np.testing.assert_allclose(got, expected, atol=0.1)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "cuda:x"])
def test_device_that_is_not_there(tiny_folder, device):
    with pytest.raises(ValueError, match=f"device {device} cannot be used"):
        load_model(tiny_folder, device=device)


def test_one_sequence_is_no_list(tiny_folder):
    with pytest.raises(ValueError, match="got one str"):
        predict(tiny_folder, "ACGT")


@pytest.mark.parametrize("dtype", ["bf17", "int8", torch.int64, "nn"])
def test_dtype_that_is_none(tiny_folder, dtype):
    with pytest.raises(ValueError, match="is no floating-point type"):
        load_model(tiny_folder, dtype=dtype)


def test_compiled_model_gets_batches_of_one_size(tiny_folder):
    model, sizes = MacaronForExpressionPrediction.from_pretrained(tiny_folder), []

    def compiled(input_ids, **options):
        sizes.append(len(input_ids))
        return model.forward(input_ids, **options)

    model._compiled_call_impl = compiled  # what `model.compile()` sets
    np.testing.assert_allclose(predict(model, SEQUENCES, batch_size=3), predict(tiny_folder, SEQUENCES), rtol=1e-5)
    assert sizes == [3, 3], "each size would be compiled anew"


@pytest.mark.slow
def test_compiled_model_predicts_the_same(tiny_folder):
    model, tokenizer = load_model(tiny_folder, compile_model=True)
    got = predict(model, SEQUENCES, tokenizer=tokenizer, batch_size=2)
    np.testing.assert_allclose(got, predict(tiny_folder, SEQUENCES), rtol=1e-5)


def test_no_sequence_gives_no_prediction(tiny_folder):
    assert predict(tiny_folder, []).shape == (0,)


def test_tokenizer_of_a_model_that_was_never_saved(make_model):
    _, tokenizer = load_model(make_model())
    assert (tokenizer.strand_length, tokenizer.kmer_size) == (20, 5)


def test_bad_sequence_is_named(tiny_folder):
    with pytest.raises(ValueError, match=r"sequence 1 of the batch: letter 'X' at position 2"):
        predict(tiny_folder, ["ACGT", "ACX"])


def frame_of(sequences):
    return pd.DataFrame({"name": [f"p{i}" for i in range(len(sequences))], "sequence": sequences})


@pytest.mark.parametrize("output", ["out.parquet", "out.csv", "out.tsv"])
@pytest.mark.parametrize("source", ["in.tsv", "in.csv", "in.tsv.gz", "in.parquet", "in.fa"])
def test_files_keep_their_order_and_columns(tiny_folder, tmp_path, source, output):
    frame = frame_of(SEQUENCES)
    path = tmp_path / source
    if source.endswith(".fa"):
        path.write_text("".join(f">{row['name']}\n{row['sequence']}\n" for row in frame.to_dict("records")))
    elif source.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if ".csv" in source else "\t", index=False)
    result = predict_file(tiny_folder, path, tmp_path / output, batch_size=2)
    assert result == (len(SEQUENCES), 0, 0)
    written = tmp_path / output
    separator = "\t" if output.endswith(".tsv") else ","
    got = pd.read_parquet(written) if output.endswith(".parquet") else pd.read_csv(written, sep=separator)
    assert got["name"].tolist() == frame["name"].tolist()
    assert got["sequence"].tolist() == SEQUENCES
    np.testing.assert_allclose(got["predicted_expression"], predict(tiny_folder, SEQUENCES), rtol=1e-6)


def test_rows_that_cannot_be_predicted_keep_their_place(tiny_folder, tmp_path):
    sequences = ["ACGT", "AC!T", "A" * 21, "", "GGGG"]
    frame_of(sequences).to_parquet(tmp_path / "in.parquet")
    result = predict_file(tiny_folder, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert result == (5, 3, 0)
    got = pd.read_parquet(tmp_path / "out.parquet")
    assert got["sequence"].tolist() == sequences
    assert got["predicted_expression"].isna().tolist() == [False, True, True, True, False]
    assert got["problem"].tolist() == ["", "letter that is not DNA", "longer than strand_length", "empty sequence", ""]
    expected = predict(tiny_folder, ["ACGT", "GGGG"])
    np.testing.assert_allclose(got["predicted_expression"].dropna(), expected, rtol=1e-6)


def test_equal_sequences_are_computed_once(tiny_folder, tmp_path):
    # After trimming the flanks ACCA and GGT, two of these are the same as the first; one cannot be predicted.
    sequences = ["ACGTACGTAC", "GGGG", "acgtacgtac", "AC!T", "ACCAACGTACGTACGGT", "TTTT"] * 20
    frame_of(sequences).to_parquet(tmp_path / "in.parquet")
    model, computed = MacaronForExpressionPrediction.from_pretrained(tiny_folder), []
    model.register_forward_hook(lambda _, inputs, __: computed.append(len(inputs[0])))
    outputs = []
    for deduplicate, rows in ((False, 100), (True, 3)):
        computed.clear()
        options = {"batch_size": 2, "deduplicate": deduplicate, "overwrite": True}
        assert predict_file(model, tmp_path / "in.parquet", tmp_path / "out.parquet", **options) == (120, 20, 0)
        assert sum(computed) == rows
        outputs.append(pd.read_parquet(tmp_path / "out.parquet"))
    pd.testing.assert_frame_equal(outputs[0], outputs[1], rtol=1e-5)


def test_error_of_the_model_leaves_nothing(tiny_folder, tmp_path):
    frame_of(SEQUENCES * 50).to_parquet(tmp_path / "in.parquet")
    model, calls = MacaronForExpressionPrediction.from_pretrained(tiny_folder), []

    def fail(*_):
        calls.append(1)
        if len(calls) == 20:
            raise RuntimeError("out of memory")

    model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        predict_file(model, tmp_path / "in.parquet", tmp_path / "out.parquet", batch_size=2)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("absent.tsv", "out.tsv", "there is no file"),
        ("in.xyz", "out.tsv", "unknown kind of file"),
        ("in.tsv", "out.xyz", "unknown kind of output"),
        ("empty.tsv", "out.tsv", "empty"),
        ("broken.tsv.gz", "out.tsv", "cannot be read"),
        ("done.tsv", "out.tsv", "already has the column"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(tiny_folder, tmp_path, source, output, message):
    frame = frame_of(SEQUENCES)
    frame.to_csv(tmp_path / "in.tsv", sep="\t", index=False)
    frame.to_csv(tmp_path / "in.xyz", sep="\t", index=False)
    frame.assign(predicted_expression=1.0).to_csv(tmp_path / "done.tsv", sep="\t", index=False)
    (tmp_path / "empty.tsv").write_text("")
    compressed = gzip.compress("".join(f"{s}\t1\n" for s in np.random.default_rng(0).choice(SEQUENCES, 5000)).encode())
    (tmp_path / "broken.tsv.gz").write_bytes(compressed[: len(compressed) // 2])
    before = {path.name for path in tmp_path.iterdir()}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(tiny_folder), source, output], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 1, result.stderr
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == before


def test_script_reports_rows_without_a_prediction(tiny_folder, tmp_path):
    frame_of(["ACGT", "XXXX"]).to_csv(tmp_path / "in.csv", index=False)
    command = [sys.executable, str(SCRIPT), str(tiny_folder), "in.csv", "out.tsv"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "2 rows written to out.tsv" in result.stdout
    options = ["--merged", "--dtype", "float32", "--deduplicate", "--overwrite"]
    again = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert again.stdout == result.stdout, again.stderr
    assert "1 of them could not be predicted" in result.stdout


def test_existing_output_is_replaced_only_when_asked(tiny_folder, tmp_path):
    frame_of(SEQUENCES).to_csv(tmp_path / "in.csv", index=False)
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        predict_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "mine"
    predict_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv", overwrite=True)
    assert len(pd.read_csv(tmp_path / "out.csv")) == len(SEQUENCES)


@pytest.mark.parametrize("name", ["absent", "absent/", "./absent", "tests/absent", "a/b/c"])
def test_checkpoint_that_can_only_be_a_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        load_model(name)


def test_folder_of_a_run_leads_to_its_model(tiny_folder, tmp_path):
    (tmp_path / "run" / "final").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"did you mean .*final"):
        load_model(tmp_path / "run")


def test_batch_size_of_zero_is_refused(tiny_folder, tmp_path):
    frame_of(SEQUENCES).to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        predict_file(tiny_folder, tmp_path / "in.csv", tmp_path / "out.csv", batch_size=0)
