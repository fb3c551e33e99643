"""A model folder loads and saves offline without this package."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from modeling_macaron import PromoterExpressionPipeline

ROOT = Path(__file__).parents[1]
TRAVELLING = {
    "configuration_macaron": ROOT / "modeling_macaron" / "configuration_macaron.py",
    "modeling_macaron": ROOT / "modeling_macaron" / "modeling_macaron.py",
    "pipeline_macaron": ROOT / "modeling_macaron" / "pipeline_macaron.py",
    "tokenization_kmer": ROOT / "tokenization" / "tokenization_kmer.py",
}
SEQUENCES = ["ACGTACGTAA", "ttttgggg", "ACCAACGTTGCAGGT", "AC[MASK]T"]

# The first lines hide this package, however it is installed.
PROGRAM = """
import json
import sys


class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("modeling_macaron", "tokenization"):
            raise ModuleNotFoundError(f"{name} is hidden")


sys.meta_path.insert(0, Absent)
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

folder, saved, sequences = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
options = {"trust_remote_code": True}
tokenizer = AutoTokenizer.from_pretrained(folder, **options)
inputs = tokenizer(sequences, return_tensors="pt")
numbers = {"vocab_size": len(tokenizer), "input_ids": inputs["input_ids"].tolist()}
with torch.no_grad():
    for auto_class in (AutoModel, AutoModelForSequenceClassification, AutoModelForMaskedLM):
        model, info = auto_class.from_pretrained(folder, output_loading_info=True, **options)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
        outputs = model(**inputs)
        numbers[auto_class.__name__] = [type(model).__name__, outputs.logits.flatten().tolist()]
predict = pipeline("promoter-expression", model=folder, **options)
numbers["pipeline"] = predict(sequences, batch_size=2)
model = AutoModelForSequenceClassification.from_pretrained(folder, **options)
model.save_pretrained(saved)
model.to_merged().save_pretrained(saved + "-merged")
for tokenizer_folder in (saved, saved + "-merged"):
    tokenizer.save_pretrained(tokenizer_folder)
predict.save_pretrained(saved + "-pipeline")
print(json.dumps(numbers))
"""


def run_without_package(folder, saved, workplace):
    """Run the program in an empty folder with its own caches."""
    (workplace / "program").mkdir(parents=True)
    (workplace / "empty").mkdir()
    program = workplace / "program" / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(workplace / "home")}
    command = [sys.executable, str(program), str(folder), str(saved), json.dumps(SEQUENCES)]
    result = subprocess.run(
        command, cwd=workplace / "empty", env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert not list((workplace / "empty").iterdir())
    return json.loads(result.stdout.splitlines()[-1])


def test_a_folder_runs_its_own_code(tiny_folder, tiny_tokenizer, tmp_path):
    """Two folders of the same name whose modeling files differ, in one process."""
    inputs, logits = tiny_tokenizer(SEQUENCES, return_tensors="pt"), {}
    for run in ("first", "second"):
        shutil.copytree(tiny_folder, tmp_path / run / "final")
    code = tmp_path / "second" / "final" / "modeling_macaron.py"
    text = code.read_text()
    assert "return outputs.mean(dim=1)" in text
    code.write_text(text.replace("return outputs.mean(dim=1)", "return outputs.mean(dim=1) + 7"))
    for run in ("first", "second", "first again"):
        folder = tmp_path / run.removesuffix(" again") / "final"
        logits[run] = AutoModel.from_pretrained(folder, trust_remote_code=True)(**inputs).logits
    assert torch.equal(logits["first"], logits["first again"])
    torch.testing.assert_close(logits["second"], logits["first"] + 7)


@pytest.fixture(scope="module")
def alone(tiny_folder, tmp_path_factory):
    """Numbers computed without the package, and the path of the model that it saved."""
    workplace = tmp_path_factory.mktemp("alone")
    saved = workplace / "saved-again"
    return run_without_package(tiny_folder, saved, workplace), saved


def test_numbers_are_the_same_without_the_package(alone, make_model, tiny_tokenizer):
    numbers, model = alone[0], make_model()
    inputs = tiny_tokenizer(SEQUENCES, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    assert numbers["vocab_size"] == 6
    assert numbers["input_ids"] == inputs["input_ids"].tolist()
    for auto_class, model_class, logits in (
        ("AutoModel", "MacaronForExpressionPrediction", outputs.logits),
        ("AutoModelForSequenceClassification", "MacaronForExpressionPrediction", outputs.logits),
        ("AutoModelForMaskedLM", "MacaronForMaskedLM", outputs.nucleotide_logits),
    ):
        assert numbers[auto_class][0] == model_class
        np.testing.assert_allclose(numbers[auto_class][1], logits.flatten().numpy(), rtol=0, atol=1e-5)
    expected = PromoterExpressionPipeline(model=model, tokenizer=tiny_tokenizer, device="cpu")(SEQUENCES)
    for got, wanted in zip(numbers["pipeline"], expected, strict=True):
        assert got["sequence"] == wanted["sequence"]
        assert got["expression"] == pytest.approx(wanted["expression"], abs=1e-5)


@pytest.mark.parametrize("suffix", ["", "-merged", "-pipeline"])
def test_folders_saved_without_the_package_are_complete(alone, tiny_folder, suffix):
    saved = Path(f"{alone[1]}{suffix}")
    assert {path.name for path in saved.iterdir()} == {path.name for path in tiny_folder.iterdir()}
    for path in tiny_folder.glob("*.py"):
        assert (saved / path.name).read_bytes() == path.read_bytes() == TRAVELLING[path.stem].read_bytes()
    for name in ("config.json", "tokenizer_config.json"):
        original, again = (json.loads((folder / name).read_text()) for folder in (tiny_folder, saved))
        assert again["auto_map"] == original["auto_map"]
    assert {path.suffix for path in tiny_folder.iterdir()} == {".py", ".json", ".safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", "-merged"])
def test_folders_saved_without_the_package_load_again(alone, tiny_folder, tmp_path, suffix):
    numbers, saved = alone[0], Path(f"{alone[1]}{suffix}")
    assert json.loads((saved / "config.json").read_text())["attention_projections"] == (suffix[1:] or "separate")
    # The first folder is hidden, so nothing is read from it.
    hidden = tiny_folder.with_name("hidden")
    tiny_folder.rename(hidden)
    try:
        again = run_without_package(saved, tmp_path / "third", tmp_path / "workplace")
    finally:
        hidden.rename(tiny_folder)
    for name in ("AutoModel", "AutoModelForSequenceClassification", "AutoModelForMaskedLM"):
        np.testing.assert_allclose(again[name][1], numbers[name][1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TRAVELLING)
def test_travelling_files_import_only_each_other_and_dependencies(name):
    allowed = {"torch", "transformers", "numpy", "huggingface_hub", *sys.stdlib_module_names}
    tree = ast.parse(TRAVELLING[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name.split(".")[0] in allowed, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert node.module in TRAVELLING, f"only `from .sibling import name` is followed: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in allowed, node.module


def test_saving_a_loaded_model_names_its_own_code(tiny_folder, tmp_path):
    model = AutoModel.from_pretrained(tiny_folder, trust_remote_code=True)
    original = json.loads((tiny_folder / "config.json").read_text())
    # A model from the Hub refers to the repository that it came from.
    model.config.auto_map = {
        name: f"someone/model--{entry}" for name, entry in original["auto_map"].items() if isinstance(entry, str)
    }
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert json.loads(text)["auto_map"] == original["auto_map"]
    assert str(tiny_folder) not in text
