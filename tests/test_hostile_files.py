"""Malicious files run no code and do not exhaust the memory."""

import json
import os
import pickle
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction, loading
from modeling_macaron.loading import load_checkpoint, load_settings
from modeling_macaron.predictor import Predictor
from tokenization import KmerTokenizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


class Bomb:
    """Object that creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def copy_of(folder, target, **fields):
    """Copy a checkpoint, with other fields in its config."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | fields))
    return target


def load_remote_code(folder):
    return AutoModel.from_pretrained(folder, trust_remote_code=True)


LOADERS = [load_checkpoint, MacaronForExpressionPrediction.from_pretrained, load_remote_code]


def write_index(folder, shard):
    """Replace the weights by an index of one other file."""
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("loader", LOADERS)
def test_pickled_weights_are_never_read(tiny_folder, tmp_path, loader):
    folder = copy_of(tiny_folder, tmp_path / "pickled")
    model = MacaronForExpressionPrediction.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        loader(str(folder))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "harm")))
    with pytest.raises(OSError, match="safetensors"):
        loader(str(folder))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("shard", ["evil.bin", "../outside.safetensors", "sub/a.safetensors", "a.SAFETENSORS", 7])
def test_an_index_names_safetensors_beside_it_only(tiny_folder, tmp_path, shard):
    folder = copy_of(tiny_folder, tmp_path / "sharded")
    weights = load_file(folder / "model.safetensors")
    write_index(folder, shard)
    (folder / "sub").mkdir()
    if isinstance(shard, str) and shard.endswith(".safetensors"):
        save_file(weights, tmp_path / "sharded" / shard, metadata={"format": "pt"})
    else:
        torch.save(weights, folder / str(shard))
    with pytest.raises(ValueError, match=f"{shard!r} .*: weights are read only from safetensors files beside it"):
        load_checkpoint(folder)


def test_weights_in_shards_are_read(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder, tmp_path / "sharded")
    model = MacaronForExpressionPrediction.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="5KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    loaded = load_checkpoint(folder)[0].state_dict()
    assert all(torch.equal(loaded[name], values) for name, values in model.state_dict().items())


def test_an_index_of_the_hub_names_safetensors_only(tiny_folder, tmp_path, monkeypatch):
    (tmp_path / "somebody").mkdir()  # a folder of the owner's name is not the checkpoint
    monkeypatch.chdir(tmp_path)
    repository = tmp_path / "models--somebody--promoters"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    folder = copy_of(tiny_folder, repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load_checkpoint("somebody/promoters")
    torch.save(load_file(folder / "model.safetensors"), folder / "evil.bin")
    write_index(folder, "evil.bin")
    with pytest.raises(ValueError, match=r"'evil\.bin' .*: weights are read only from safetensors files beside it"):
        load_checkpoint("somebody/promoters")


@pytest.mark.parametrize("name", ["weights.bin", "model.safetensors"])
def test_a_file_is_not_a_checkpoint(tiny_folder, tmp_path, monkeypatch, name):
    folder = copy_of(tiny_folder, tmp_path / "files")
    (folder / "weights.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "harm")))
    monkeypatch.chdir(tmp_path)
    for path in (folder / name, f"files/{name}"):
        with pytest.raises(FileNotFoundError, match=f"there is no checkpoint folder .*{name}"):
            load_checkpoint(path)
    assert not (tmp_path / "harm").exists()


def test_a_distributed_checkpoint_is_rejected(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder, tmp_path / "distributed")
    weights = load_file(folder / "model.safetensors")
    del weights["expression_head.bias"]
    save_file(weights, folder / "shard-00001-model-00001-of-00001.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="distributed checkpoint"):
        load_checkpoint(folder)


def test_an_adapter_is_not_read_with_the_weights(tiny_folder, tmp_path, monkeypatch):
    folder = copy_of(tiny_folder, tmp_path / "adapted")
    (folder / "adapter_config.json").write_text("{}")
    load_checkpoint(folder)
    monkeypatch.setattr(loading, "is_peft_available", lambda: True)
    with pytest.raises(ValueError, match="adapter"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "content",
    [
        "{}", "[]", "null", "7", "{", "\0", "[" * 100_000, '{"metadata": {}, "weight_map": {}}', '{"weight_map": []}',
        '{"weight_map": {"a": "model.safetensors"}}', '{"metadata": [], "weight_map": {"a": "model.safetensors"}}',
    ],
)  # fmt: skip
def test_a_broken_index_is_reported(tiny_folder, tmp_path, content):
    folder = copy_of(tiny_folder, tmp_path / "sharded")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index\.json is not an index of weights"):
        load_checkpoint(folder)


def inspect(folder):
    """Run the two grep commands of SECURITY.md on a folder."""
    lines = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("grep ")]
    commands = [line.partition(" # ")[0].replace("to-read", str(folder)) for line in lines]
    return [subprocess.run(["bash", "-c", command], capture_output=True, text=True).stdout for command in commands]


@pytest.mark.parametrize("name", ["tiny", "library"])
def test_saved_configs_name_the_four_files_only(tiny_folder, name):
    other, named = inspect(tiny_folder if name == "tiny" else ROOT / "checkpoints" / "macaron-promoter-library")
    assert other == ""
    modules = {line.strip('"').split(".")[0] for line in named.splitlines()}
    assert modules == {"configuration_macaron", "modeling_macaron", "pipeline_macaron", "tokenization_kmer"}


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("value", "grep"), [("evil/code--x.C", 0), ("evil/code\\u002d\\u002dx.C", 0), ("evil.C", 1), ("sub/evil.C", 1)]
)
def test_other_code_is_visible(tiny_folder, tmp_path, file, value, grep):
    folder = copy_of(tiny_folder, tmp_path / "changed")
    settings = (folder / file).read_text()
    (folder / file).write_text(settings.replace("tokenization_kmer.KmerTokenizer", value))
    assert f'"{value}"' in inspect(folder)[grep]


def test_pickles_cannot_be_requested(tiny_folder):
    with pytest.raises(ValueError, match="safetensors only"):
        MacaronForExpressionPrediction.from_pretrained(tiny_folder, use_safetensors=False)
    with pytest.raises(ValueError, match="safetensors only"):
        AutoModel.from_pretrained(tiny_folder, use_safetensors=None, trust_remote_code=True)


def test_pickles_beside_the_weights_are_not_read(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder, tmp_path / "both")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt"):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "harm")))
    load_checkpoint(folder)
    KmerTokenizer.from_pretrained(folder)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 1 << 40}, "`hidden_size` must be an integer from 1 to 16,384"),
        ({"expression_mean": 10**400}, "`expression_mean` must be in"),
        ({"model_type": "bert"}, "is a model of type 'bert', not 'macaron'"),
        ({"hidden_size": 24}, "has weights whose shapes do not match its config: "),
        ({"num_hidden_layers": 3}, "lacks 2[0-9] of the model's weights, such as macaron.layers.2"),
        ({"num_hidden_layers": 1}, "has 2[0-9] weights unknown to its config, such as macaron.layers.1"),
        ({"use_convolution": False}, "has [0-9]+ weights unknown to its config, such as macaron.layers.0"),
    ],
)
def test_config_must_fit_the_weights(tiny_folder, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        load_checkpoint(copy_of(tiny_folder, tmp_path / "changed", **fields))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_rejected(tiny_folder, tmp_path, value):
    folder = copy_of(tiny_folder, tmp_path / "changed")
    weights = load_file(folder / "model.safetensors")
    weights["nucleotide_head.weight"][3, 1] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"not finite: nucleotide_head\.weight$"):
        load_checkpoint(folder)


def test_a_prediction_that_is_not_finite_is_rejected(make_model, tiny_tokenizer):
    model = make_model()
    with torch.no_grad():
        model.expression_head.weight.fill_(3e38)
    with pytest.raises(ValueError, match="is not finite"):
        Predictor(model, tiny_tokenizer).predict(["ACGT"])


def test_a_number_of_labels_is_rejected_before_they_are_made(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder, tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (folder / "config.json").write_text(json.dumps(config | {"num_labels": 10**9}))
    began = time.monotonic()
    with pytest.raises(ValueError, match="`num_labels` must be 1, the expression, got 1000000000"):
        load_checkpoint(folder)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_implementation", "org/kernel"),
        ("attn_implementation", "flash_attention_2"),
        ("_attn_implementation", "org/kernel"),
        ("_attn_implementation_internal", "org/kernel"),
        ("dtype", "float8_e4m3fn"),
        ("torch_dtype", "int8"),
        ("return_dict", False),
        ("transformers_weights", "evil.bin"),
        ("quantization_config", {"quant_method": "fp8"}),
        ("fusion_config", {"patch_embeddings": True}),
        ("per_layer_config", {"0": {"intermediate_size": 10**9}}),
    ],
)
def test_a_config_does_not_choose_how_it_is_run(tiny_folder, tmp_path, name, value):
    folder = copy_of(tiny_folder, tmp_path / "changed", **{name: value})
    with pytest.raises(ValueError, match=f"`{name}` of a config.json must be"):
        load_settings(folder)


def test_a_config_may_choose_an_attention_of_the_model(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder, tmp_path / "changed", attn_implementation="eager", dtype="bfloat16")
    model, _ = load_checkpoint(folder)
    assert (model.config._attn_implementation, model.dtype) == ("eager", torch.bfloat16)


@pytest.mark.parametrize("error", [AttributeError, ImportError, MemoryError, TypeError, torch.OutOfMemoryError])
@pytest.mark.parametrize(
    "broken", [(MacaronForExpressionPrediction, "from_pretrained"), (MacaronConfig, "validate_architecture")]
)
def test_bugs_and_lack_of_memory_are_not_reported_as_damage(tiny_folder, monkeypatch, broken, error):
    def fail(*_, **__):
        raise error("ours")

    monkeypatch.setattr(*broken, fail)
    with pytest.raises(error, match="ours"):
        load_checkpoint(tiny_folder)


@pytest.mark.parametrize("error", [ValueError, SafetensorError])
def test_every_error_of_a_damaged_file_is_reported_in_one_line(tiny_folder, monkeypatch, error):
    def fail(*_, **__):
        raise error("first line\nand a second")

    monkeypatch.setattr(MacaronForExpressionPrediction, "from_pretrained", fail)
    with pytest.raises(ValueError, match=f"cannot be loaded .{error.__name__}.: first line and a second"):
        load_checkpoint(tiny_folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content",
    ["[]", "null", '"x"', "[" * 100_000, {"id2label": []}, {"layer_types": -1}, {"rope_parameters": "x"},
     {"added_tokens_decoder": None}, {"mask_token": []}, {"init_inputs": None}, {"chat_template": [1]}],
)  # fmt: skip
def test_settings_of_a_wrong_kind_are_damage(tiny_folder, tmp_path, file, content):
    folder = copy_of(tiny_folder, tmp_path / "changed")
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / file).read_text()) | content)
    (folder / file).write_text(content)
    try:
        load_checkpoint(folder)  # most settings mean nothing in one of the two files
    except ValueError as error:
        assert f"the checkpoint {folder} cannot be loaded" in str(error) and "\n" not in str(error)
    else:
        assert content.startswith("{") or content == "null"
