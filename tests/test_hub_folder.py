"""A stranger's process: offline, in an empty folder, without this package."""

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

# The first lines take this package away: an installed copy, an editable one and the working folder alike.
STRANGER = """
import importlib
import json
import sys


class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("modeling_macaron", "tokenization"):
            raise ModuleNotFoundError(f"{name} is not here")


sys.meta_path.insert(0, Absent)
for name in ("modeling_macaron", "tokenization", "tokenization.tokenization_kmer"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} can be imported")

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

folder, saved, sequences = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
options = {"trust_remote_code": True}
tokenizer = AutoTokenizer.from_pretrained(folder, **options)
config = AutoConfig.from_pretrained(folder, **options)
inputs = tokenizer(sequences, return_tensors="pt")
numbers = {"model_type": config.model_type, "vocab_size": len(tokenizer), "input_ids": inputs["input_ids"].tolist()}
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
for module in list(sys.modules):
    assert module.split(".")[0] not in ("modeling_macaron", "tokenization"), module
print(json.dumps(numbers))
"""


def run_stranger(folder, saved, workplace):
    """Run the stranger's program in an empty folder with caches of its own."""
    (workplace / "program").mkdir(parents=True)
    (workplace / "empty").mkdir()
    program = workplace / "program" / "stranger.py"
    program.write_text(STRANGER)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if Path(path).resolve() != ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(workplace / "home"),
        "HF_MODULES_CACHE": str(workplace / "home" / "modules"),
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        [sys.executable, str(program), str(folder), str(saved), json.dumps(SEQUENCES)],
        cwd=workplace / "empty",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
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
def stranger(tiny_folder, tmp_path_factory):
    """What the stranger got from the folder, and where it saved the model again."""
    workplace = tmp_path_factory.mktemp("stranger")
    saved = workplace / "saved-again"
    return run_stranger(tiny_folder, saved, workplace), saved


def test_stranger_gets_the_same_numbers(stranger, make_model, tiny_tokenizer):
    numbers, _ = stranger
    model = make_model()
    inputs = tiny_tokenizer(SEQUENCES, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    assert (numbers["model_type"], numbers["vocab_size"]) == ("macaron", 6)
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
def test_what_a_stranger_saves_is_complete(stranger, tiny_folder, suffix):
    saved = Path(f"{stranger[1]}{suffix}")
    names = {path.name for path in tiny_folder.iterdir()}
    assert {path.name for path in saved.iterdir()} == names
    for path in tiny_folder.glob("*.py"):
        assert (saved / path.name).read_bytes() == path.read_bytes()
    original = json.loads((tiny_folder / "config.json").read_text())
    config = json.loads((saved / "config.json").read_text())
    assert config["auto_map"] == original["auto_map"]
    assert config["custom_pipelines"]["promoter-expression"]["impl"] == "pipeline_macaron.PromoterExpressionPipeline"
    tokenizer_config = json.loads((saved / "tokenizer_config.json").read_text())
    assert tokenizer_config["auto_map"] == {"AutoTokenizer": ["tokenization_kmer.KmerTokenizer", None]}


@pytest.mark.parametrize("suffix", ["", "-merged"])
def test_what_a_stranger_saves_loads_again(stranger, tiny_folder, tmp_path, suffix):
    numbers, saved = stranger[0], Path(f"{stranger[1]}{suffix}")
    assert json.loads((saved / "config.json").read_text())["attention_projections"] == (suffix[1:] or "separate")
    # The first folder is hidden meanwhile, so that nothing can come from there.
    hidden = tiny_folder.with_name("hidden")
    tiny_folder.rename(hidden)
    try:
        again = run_stranger(saved, tmp_path / "third", tmp_path / "workplace")
    finally:
        hidden.rename(tiny_folder)
    assert again["input_ids"] == numbers["input_ids"]
    for name in ("AutoModel", "AutoModelForSequenceClassification", "AutoModelForMaskedLM"):
        np.testing.assert_allclose(again[name][1], numbers[name][1], rtol=0, atol=1e-5)


def test_folder_holds_what_it_needs_and_nothing_to_unpickle(tiny_folder):
    names = {path.name for path in tiny_folder.iterdir()}
    assert names >= {f"{name}.py" for name in TRAVELLING}
    assert names >= {"config.json", "model.safetensors", "tokenizer_config.json"}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".msgpack"))]
    for name, path in TRAVELLING.items():
        assert (tiny_folder / f"{name}.py").read_bytes() == path.read_bytes()


def test_model_alone_brings_its_code_without_the_tokenizers_folder(tmp_path, make_model):
    make_model().save_pretrained(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.py")} >= set(TRAVELLING) - {"tokenization_kmer"}


@pytest.mark.parametrize("name", TRAVELLING)
def test_travelling_files_import_only_what_a_stranger_has(name):
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
