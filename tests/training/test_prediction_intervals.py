"""Prediction intervals: conformal quantiles and bounds from every way of predicting."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import pipeline

from modeling_macaron import MacaronForExpressionPrediction, PromoterExpressionPipeline
from modeling_macaron.analysis.files import FileOptions
from modeling_macaron.analysis.predict import predict_file
from modeling_macaron.predictor import Predictor
from modeling_macaron.training.metrics import conformal_quantiles
from scripts import evaluate as evaluate_script
from scripts import predict as predict_script
from tests.training.runs import SHORT, run

SEQUENCES = ["ACGTACGTAA", "TTTTGGGG", "ACCAACGTTGCAGGT", "A" * 20]
QUANTILES = {"50": 0.5, "90": 1.5}
BINS = {"expression_bins": (-2.0, 0.0, 2.0)}


@pytest.fixture(scope="module", params=["squared error", "bins"])
def folder(request, tmp_path_factory, make_model, tiny_tokenizer):
    """Checkpoint with intervals of 50 and 90 %."""
    folder = tmp_path_factory.mktemp("intervals") / request.param.replace(" ", "-")
    make_model(interval_quantiles=QUANTILES, **(BINS if request.param == "bins" else {})).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(folder, tiny_tokenizer):
    """Explicit expression and half width of a 90 % interval in assay units."""
    model = MacaronForExpressionPrediction.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(**tiny_tokenizer(SEQUENCES, return_tensors="pt"))
    scale = 1.0 if outputs.variance is None else outputs.variance[:, 0].double().sqrt().numpy()
    return outputs.logits[:, 0].double().numpy() * 2.5 + 11.25, np.broadcast_to(1.5 * scale * 2.5, len(SEQUENCES))


@pytest.mark.parametrize(
    ("rows", "ranks"),
    [
        (999, {"50": 500, "80": 800, "90": 900, "95": 950}), (9, {"50": 5, "80": 8, "90": 9}), (1, {"50": 1}), (0, None)
    ],
)  # fmt: skip
def test_ranks_follow_split_conformal_prediction(rows, ranks):
    assert conformal_quantiles(np.random.default_rng(0).permutation(rows) + 1.0) == ranks


def test_new_measurements_are_covered():
    rng = np.random.default_rng(0)
    covered = {"50": [], "80": [], "90": [], "95": []}
    for _ in range(3000):
        scores = np.abs(rng.standard_t(3, 20))
        for coverage, quantile in conformal_quantiles(scores[:-1]).items():
            covered[coverage].append(scores[-1] <= quantile)
    for coverage, hits in covered.items():
        assert int(coverage) / 100 - 0.025 < np.mean(hits) < int(coverage) / 100 + 0.075


def test_function(folder, expected):
    predictor = Predictor.from_pretrained(folder, batch_size=3)
    found = predictor.predict_intervals(SEQUENCES)
    np.testing.assert_allclose(found.expression, expected[0], rtol=1e-5)
    np.testing.assert_allclose(found.low, expected[0] - expected[1], rtol=1e-5)
    np.testing.assert_allclose(found.high, expected[0] + expected[1], rtol=1e-5)
    np.testing.assert_array_equal(predictor.predict(SEQUENCES), found.expression)
    half = predictor.predict_intervals(SEQUENCES, coverage=50)
    np.testing.assert_allclose(half.high - half.low, (found.high - found.low) / 3, rtol=1e-5)
    assert [len(values) for values in predictor.predict_intervals([])] == [0, 0, 0]
    with pytest.raises(ValueError, match="no interval of 99 %; it has 50, 90 %"):
        predictor.predict_intervals(SEQUENCES, coverage=99)


def test_pipeline(folder, expected):
    predictor = pipeline("promoter-expression", model=str(folder), trust_remote_code=True, device="cpu")
    found = predictor(SEQUENCES, batch_size=3)
    bounds = np.array([[one["expression_low"], one["expression_high"]] for one in found])
    np.testing.assert_allclose(bounds, np.stack([expected[0] - expected[1], expected[0] + expected[1]], 1), rtol=1e-5)
    half = predictor(SEQUENCES[0], coverage=50)
    assert half["expression_high"] - half["expression"] == pytest.approx(expected[1][0] / 3, rel=1e-4)
    with pytest.raises(ValueError, match="no interval of 99 %"):
        predictor(SEQUENCES[0], coverage=99)


@pytest.mark.parametrize("options", [[], ["--deduplicate"], ["--coverage", "50"]])
def test_file(folder, expected, tmp_path, options):
    pd.DataFrame({"name": range(5), "sequence": [*SEQUENCES, "ACGTX"]}).to_csv(tmp_path / "in.csv", index=False)
    predict_script.main([str(folder), str(tmp_path / "in.csv"), str(tmp_path / "out.parquet"), *options])
    table = pd.read_parquet(tmp_path / "out.parquet")
    names = ["predicted_expression", "expression_low", "expression_high"]
    assert list(table.columns) == ["name", "sequence", *names, "problem"]
    width = expected[1] / 3 if "50" in options else expected[1]
    found = table[names].to_numpy()
    np.testing.assert_allclose(found[:4].T, [expected[0], expected[0] - width, expected[0] + width], rtol=1e-5)
    assert np.isnan(found[4]).all() and table["problem"][4]


def test_resumed_files_have_the_same_bounds(folder, tmp_path, monkeypatch):
    pd.DataFrame({"sequence": SEQUENCES * 12}).to_csv(tmp_path / "in.csv", index=False)
    predictor, resume = Predictor.from_pretrained(folder, batch_size=1), FileOptions(resume=True)
    predict_file(predictor, tmp_path / "in.csv", tmp_path / "whole.csv", deduplicate=True)
    with monkeypatch.context() as patched:
        patched.setattr("modeling_macaron.analysis.files._join", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict_file(predictor, tmp_path / "in.csv", tmp_path / "out.csv", deduplicate=True)
    sorted((tmp_path / "out.csv.parts").glob("*.arrow"))[-1].unlink()
    call = predictor, tmp_path / "in.csv", tmp_path / "out.csv"
    with pytest.raises(ValueError, match="had other values of settings"):
        predict_file(*call, deduplicate=True, coverage=50, options=resume)
    predict_file(*call, deduplicate=True, options=resume)
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_model_without_intervals(tiny_folder, make_model, tiny_tokenizer, tmp_path, capsys):
    found = PromoterExpressionPipeline(model=make_model(), tokenizer=tiny_tokenizer, device="cpu")(SEQUENCES[0])
    assert set(found) == {"sequence", "expression", "standardized_expression"}
    config = make_model(interval_quantiles={"50": 1.0}).config
    assert config.expression_interval(0.0) is None
    assert config.expression_interval(1.0, 4.0, coverage=50) == (11.25 - 2.5, 11.25 + 3 * 2.5)
    (tmp_path / "in.csv").write_text("sequence\nACGT\n")
    with pytest.raises(SystemExit, match=r"no interval of 90 %; it has none: evaluate\.py --calibrate adds them"):
        predict_script.main([str(tiny_folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), "--coverage", "90"])
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize("options", [[], ["--expression_bins", "6"]])
def test_training_calibrates_on_validation(prepared, tmp_path, options):
    final = run(prepared, tmp_path / "run", *SHORT, *options)
    quantiles = json.loads((final / "config.json").read_text())["interval_quantiles"]
    assert "expression_high" in (final / "README.md").read_text()
    score = [*("--model", str(final), "--table", str(prepared), "--split", "validation"), "--overwrite"]
    evaluate_script.main([*score, "--output", str(tmp_path / "score.json"), "--calibrate"])
    again = json.loads((final / "config.json").read_text())["interval_quantiles"]
    assert set(quantiles) == set(again) == {"50", "80", "90", "95"}
    for coverage, quantile in quantiles.items():
        assert again[coverage] == pytest.approx(quantile, rel=1e-3)
    assert json.loads((tmp_path / "score.json").read_text())["run"]["interval_quantiles"] == again
    assert MacaronForExpressionPrediction.from_pretrained(final).config.interval_quantiles == again
    tuned = run(prepared, tmp_path / "tuned", *SHORT, "--init_from", str(final))
    for step in (4, 12):
        saved = json.loads((tmp_path / "tuned" / f"checkpoint-{step}" / "config.json").read_text())
        assert saved["interval_quantiles"] is None
    assert json.loads((tuned / "config.json").read_text())["interval_quantiles"] != quantiles


def test_evaluation_reports_coverage(folder, expected, tmp_path, capsys):
    """Coverage is reported for each category of rows, but not for pairs."""
    low, high = expected[0] - expected[1], expected[0] + expected[1]
    measured = [low[0] - 0.1, low[1] + 0.1, high[2] - 0.1, high[3] + 0.1]
    rows = pd.DataFrame({"sequence": SEQUENCES, "activity": measured, "random": [0, 1, 1, 1], "row_id": range(4)})
    rows.astype({"random": bool}).to_parquet(tmp_path / "table.parquet")
    common = ["--table", str(tmp_path / "table.parquet"), "--output", str(tmp_path / "score.json")]
    evaluate_script.main(["--model", str(folder), *common])
    result = json.loads((tmp_path / "score.json").read_text())["all"]
    assert (result["all"]["coverage_90"], result["random"]["coverage_90"]) == (0.5, pytest.approx(2 / 3))
    assert "within 90 % |" in (shown := capsys.readouterr().out) and " 66.7% |" in shown
    pd.DataFrame({"row_id": range(4), "prediction": measured}).to_csv(tmp_path / "p.csv", index=False)
    evaluate_script.main(["--predictions", str(tmp_path / "p.csv"), *common, "--overwrite"])
    assert "within 90 %" not in capsys.readouterr().out
    rows.assign(activity=rows["activity"] + 1000).to_parquet(tmp_path / "table.parquet")
    evaluate_script.main(["--model", str(folder), *common, "--overwrite"])
    assert "no coverage of intervals: the measurements are on another scale" in (shown := capsys.readouterr().out)
    assert "within 90 %" not in shown


def test_calibration_needs_a_folder_and_rows(tiny_folder, tmp_path):
    (tmp_path / "table.csv").write_text("sequence,expression\n" + "".join(f"{dna},1\n" for dna in SEQUENCES[:1]))
    common = ["--table", str(tmp_path / "table.csv"), "--output", str(tmp_path / "score.json"), "--calibrate"]
    with pytest.raises(SystemExit, match="--calibrate writes into a model folder"):
        evaluate_script.main(["--model", "me/model", *common])
    shutil.copytree(tiny_folder, tmp_path / "model")
    evaluate_script.main(["--model", str(tmp_path / "model"), *common])
    assert set(json.loads((tmp_path / "model" / "config.json").read_text())["interval_quantiles"]) == {"50"}
