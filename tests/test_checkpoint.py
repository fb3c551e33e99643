"""The repository's checkpoint is complete, works offline and matches its card."""

import json
import math
import os
import subprocess
import sys

import pytest
import yaml

from benchmarks import checkpoint as benchmark
from benchmarks.pages import render_block
from modeling_macaron.evaluation.report import TITLES
from modeling_macaron.evaluation.score import evaluate_files
from modeling_macaron.hub import check_hub_folder
from modeling_macaron.training.model_card import TRAINING_FACTS
from tests.test_hub_folder import TRAVELLING

CHECKPOINT = benchmark.CHECKPOINT
FIGURES = ("n", "pearson_r", "spearman_rho")

PROGRAM = """
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


@pytest.fixture(scope="module")
def evaluation():
    return json.loads((CHECKPOINT / benchmark.EVALUATION).read_text(encoding="utf-8"))


def test_folder_is_complete_and_small():
    check_hub_folder(CHECKPOINT)
    names = {path.name for path in CHECKPOINT.iterdir()}
    assert not names & {"training_args.bin", "pytorch_model.bin", "raw_weights.safetensors", "optimizer.pt"}
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 24e6


@pytest.mark.parametrize("name", TRAVELLING)
def test_code_matches_the_repository(name):
    assert (CHECKPOINT / f"{name}.py").read_text() == TRAVELLING[name].read_text(), "python -m benchmarks.checkpoint"


def test_checkpoint_predicts_offline_as_in_its_card(evaluation, tmp_path):
    example = evaluation["example"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": ""}
    command = [sys.executable, "-c", PROGRAM, str(CHECKPOINT), example["sequence"]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["dtype"] == "torch.float32"
    assert got["auto"] == pytest.approx(example["expression"], abs=1e-4)
    assert got["pipeline"] == pytest.approx(example["expression"], abs=1e-4)


@pytest.mark.parametrize(("path", "folder"), [
    (CHECKPOINT / "README.md", ""), (benchmark.MODEL_CARD, "checkpoints/macaron-promoter-library/"),
])  # fmt: skip
def test_cards_are_rendered_from_the_figures(path, folder):
    assert path.read_text(encoding="utf-8") == benchmark.render_card(CHECKPOINT, folder), (
        "python -m benchmarks.checkpoint"
    )
    for name in ("validation.png", "learning_curve.png"):
        assert (path.parent / folder / name).is_file()


def test_readme_shows_the_figures():
    block = render_block(benchmark.BLOCK, benchmark.render_summary(CHECKPOINT))
    assert block in benchmark.README.read_text(encoding="utf-8"), "run python -m benchmarks.checkpoint"


def test_metadata_has_the_figures_of_every_category(evaluation):
    metadata = yaml.safe_load((CHECKPOINT / "README.md").read_text(encoding="utf-8").split("---")[1])
    figures = {
        (metric["name"].partition(", ")[2], metric["type"]): metric["value"]
        for result in metadata["model-index"][0]["results"]
        for metric in result["metrics"]
    }
    for category, measured in evaluation["all"].items():
        assert figures[TITLES[category].lower(), "pearsonr"] == measured["pearson_r"]
        assert figures[TITLES[category].lower(), "spearmanr"] == measured["spearman_rho"]
    assert len(figures) == 18 and metadata["license"] == "apache-2.0"


def test_checkpoint_was_trained_by_the_recipe_of_the_repository():
    recipe = yaml.safe_load((benchmark.ROOT / "configs" / "library.yaml").read_text(encoding="utf-8"))
    facts = json.loads((CHECKPOINT / TRAINING_FACTS).read_text(encoding="utf-8"))
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    renamed = {"num_train_epochs": "epochs"}
    recipe["warmup_steps"] = math.ceil(recipe["warmup_steps"] * facts["steps"])  # a share of them
    known = facts | config
    same = {name: known[renamed.get(name, name)] for name in recipe if renamed.get(name, name) in known}
    assert same == {name: recipe[name] for name in same}
    assert {"hidden_size", "hidden_dropout", "learning_rate", "num_train_epochs", "ema_decay", "seed"} <= set(same)
    assert facts["precision"] == "bf16" and recipe["bf16"]


@pytest.mark.slow
def test_figures_are_reproduced(evaluation, shared, tmp_path):
    data = shared / "data" / "dream2022"
    result = evaluate_files(
        data / "measured_library.parquet", tmp_path / "score.json",
        model=CHECKPOINT, pairs=data / "pairs.parquet", split="validation",
    )  # fmt: skip
    assert set(result["all"]) == set(evaluation["all"])
    for category, figures in result["all"].items():
        for name in FIGURES:
            assert figures[name] == pytest.approx(evaluation["all"][category][name], abs=1e-6), (category, name)
    assert result["all"]["all"]["pearson_r"] > 0.90
