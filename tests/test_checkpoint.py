"""The checkpoints of this repository: complete, offline, and as good as their cards say."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks import checkpoint as benchmark
from benchmarks.pages import render_block
from modeling_macaron.evaluation.report import TITLES
from modeling_macaron.evaluation.score import evaluate_files
from modeling_macaron.hub import check_hub_folder
from modeling_macaron.predictor import Predictor
from modeling_macaron.training.model_card import TRAINING_FACTS
from tests.test_hub_folder import TRAVELLING

CHECKPOINTS = {"library": benchmark.CHECKPOINT, "yeast": benchmark.YEAST}
SLOPE, INTERCEPT = 6.534, 7.680  # from activity of the library to expression of the yeast table
FIGURES = ("n", "pearson_r", "spearman_rho")

WITHOUT_PACKAGE = """
import json, sys
sys.modules["modeling_macaron"] = sys.modules["tokenization"] = None
import torch
from transformers import AutoModel, AutoTokenizer, pipeline
folder, sequence = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    logits = model(**tokenizer([sequence], return_tensors="pt")).logits
predict = pipeline("promoter-expression", model=folder, trust_remote_code=True)
print(json.dumps({
    "dtype": str(model.dtype),
    "auto": float(logits) * model.config.expression_std + model.config.expression_mean,
    "pipeline": predict(sequence)["expression"],
}))
"""


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request):
    return CHECKPOINTS[request.param]


def evaluation_of(checkpoint):
    return json.loads((checkpoint / benchmark.EVALUATION).read_text(encoding="utf-8"))


def test_folder_is_complete_and_small(checkpoint):
    check_hub_folder(checkpoint)
    names = {path.name for path in checkpoint.iterdir()}
    assert not names & {"training_args.bin", "pytorch_model.bin", "raw_weights.safetensors", "optimizer.pt"}
    assert sum(path.stat().st_size for path in checkpoint.iterdir()) < 24e6


@pytest.mark.parametrize("name", TRAVELLING)
def test_code_is_that_of_the_repository(checkpoint, name):
    assert (checkpoint / f"{name}.py").read_text() == TRAVELLING[name].read_text(), "python -m benchmarks.checkpoint"


def test_predicts_what_the_card_says_offline_and_without_this_package(checkpoint, tmp_path):
    example = evaluation_of(checkpoint)["example"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": ""}
    command = [sys.executable, "-c", WITHOUT_PACKAGE, str(checkpoint), example["sequence"]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["dtype"] == "torch.float32"
    assert got["auto"] == pytest.approx(example["expression"], abs=1e-4)
    assert got["pipeline"] == pytest.approx(example["expression"], abs=1e-4)


@pytest.mark.parametrize(("name", "path", "folder"), [
    ("library", benchmark.CHECKPOINT / "README.md", ""), ("yeast", benchmark.YEAST / "README.md", ""),
    ("library", benchmark.MODEL_CARD, "checkpoints/macaron-promoter-library/"),
])  # fmt: skip
def test_cards_are_rendered_from_the_figures(name, path, folder):
    card = benchmark.render_card(CHECKPOINTS[name], folder)
    assert path.read_text(encoding="utf-8") == card, "python -m benchmarks.checkpoint"
    for picture in ("validation.png" if name == "library" else "test.png", "learning_curve.png"):
        assert (path.parent / folder / picture).is_file() and f"({folder}{picture})" in card


def test_readme_shows_the_figures():
    block = render_block(benchmark.BLOCK, benchmark.render_summary())
    assert block in benchmark.README.read_text(encoding="utf-8"), "run python -m benchmarks.checkpoint"


def test_metadata_has_the_figures_of_every_category(checkpoint):
    metadata = yaml.safe_load((checkpoint / "README.md").read_text(encoding="utf-8").split("---")[1])
    figures = {
        (metric["name"].partition(", ")[2], metric["type"]): metric["value"]
        for result in metadata["model-index"][0]["results"]
        for metric in result["metrics"]
    }
    for category, measured in benchmark.categories(evaluation_of(checkpoint)).items():
        assert figures[TITLES[category].lower(), "pearsonr"] == measured["pearson_r"]
        assert figures[TITLES[category].lower(), "spearmanr"] == measured["spearman_rho"]
    assert len(figures) == 18 and metadata["license"] == "apache-2.0"


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoint_was_trained_by_the_recipe_of_the_repository(name):
    recipe = yaml.safe_load((benchmark.ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    facts = json.loads((CHECKPOINTS[name] / TRAINING_FACTS).read_text(encoding="utf-8"))
    config = json.loads((CHECKPOINTS[name] / "config.json").read_text(encoding="utf-8"))
    renamed = {"num_train_epochs": "epochs"}
    if recipe.get("expression_bins"):
        recipe["expression_bins"] = config["expression_bins"] if len(config["expression_bins"]) == 18 else None
    recipe["warmup_steps"] = math.ceil(recipe["warmup_steps"] * facts["steps"])  # a share of them
    known = facts | config
    same = {name: known[renamed.get(name, name)] for name in recipe if renamed.get(name, name) in known}
    assert same == {name: recipe[name] for name in same}
    assert {"hidden_size", "hidden_dropout", "learning_rate", "num_train_epochs", "ema_decay", "seed"} <= set(same)
    assert facts["precision"] == "bf16" and recipe["bf16"]


@pytest.mark.slow
def test_figures_of_the_library_are_reproduced(shared, tmp_path):
    data = shared / "data" / "dream2022"
    expected = evaluation_of(benchmark.CHECKPOINT)["all"]
    result = evaluate_files(
        data / "measured_library.parquet", tmp_path / "score.json",
        model=benchmark.CHECKPOINT, pairs=data / "pairs.parquet", split="validation",
    )  # fmt: skip
    assert set(result["all"]) == set(expected)
    for category, figures in result["all"].items():
        for name in FIGURES:
            assert figures[name] == pytest.approx(expected[category][name], abs=1e-6), (category, name)
    assert result["all"]["all"]["pearson_r"] > 0.90


def test_committed_predictions_have_the_official_score_of_the_card(shared, tmp_path):
    data = shared / "data"
    expected = evaluation_of(benchmark.YEAST)
    table, pairs = data / "dream2022" / "measured_library.parquet", data / "dream2022" / "pairs.parquet"
    result = evaluate_files(table, tmp_path / "score.json", predictions=benchmark.PREDICTIONS, pairs=pairs)
    for part in ("all", "private"):
        for category, figures in benchmark.categories({"all": result[part]}).items():
            for name in FIGURES:
                assert figures[name] == pytest.approx(expected[part][category][name], abs=1e-5), (part, category, name)
        for name in ("pearson_score", "spearman_score"):
            assert result[part][name] == pytest.approx(expected[part][name], abs=1e-5)
    rows = pd.read_parquet(data / "yeast" / "dream_test_sequences.parquet", columns=["row_id"])["row_id"]
    predictions = pd.read_parquet(benchmark.PREDICTIONS).set_index("row_id")
    assert sorted(predictions.index) == sorted(rows) and np.isfinite(predictions.to_numpy()).all()


def test_intervals_cover_the_measurements(shared):
    """The units of the library are mapped to those of the model by least squares on rows that both have."""
    measured = pd.read_parquet(shared / "data" / "dream2022" / "measured_library.parquet").set_index("row_id")
    found = pd.read_parquet(benchmark.PREDICTIONS).set_index("row_id").loc[measured.index]
    values = SLOPE * measured["activity"] + INTERCEPT
    covered = found["expression_low"].le(values) & values.le(found["expression_high"])
    assert 0.80 <= covered[measured["random"]].mean() <= 0.99


@pytest.mark.slow
def test_some_predictions_are_reproduced(shared):
    rows = pd.read_parquet(shared / "data" / "yeast" / "dream_test_sequences.parquet").sample(300, random_state=0)
    expected = pd.read_parquet(benchmark.PREDICTIONS).set_index("row_id").loc[rows["row_id"], "prediction"]
    found = Predictor.from_pretrained(benchmark.YEAST).predict(rows["sequence"].tolist())
    np.testing.assert_allclose(found, expected, atol=1e-4)
