"""Pushing to the Hub: complete folders only, no training state, errors in one line."""

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, RepoUrl, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import filter_repo_objects

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.hub import check_hub_folder, push_folder
from scripts.push_to_hub import main

FILES = {
    "README.md", "config.json", "configuration_macaron.py", "model.safetensors", "modeling_macaron.py",
    "pipeline_macaron.py", "tokenization_kmer.py", "tokenizer_config.json", "learning_curve.png",
}  # fmt: skip
NOT_FOR_THE_HUB = [
    "checkpoint-5/model.safetensors", "checkpoint-5/deep/optimizer.pt", "optimizer.pt", "training_args.bin",
    "runs/a/events.out.tfevents.1", "events.out.tfevents.2", "trainer_state.json", "__pycache__/x.pyc",
]  # fmt: skip
STEPS = ["create_repo", "create_branch", "upload_folder"]


class FakeHub:
    """Fake of the three calls of a push."""

    def __init__(self, monkeypatch):
        self.files, self.arguments, self.error_at = {}, {}, {}
        for step in STEPS:
            monkeypatch.setattr(HfApi, step, getattr(self, step))

    def enter(self, step, arguments):
        self.arguments[step] = arguments
        if step in self.error_at:
            raise self.error_at[step]

    def create_repo(self, repo_id, **arguments):
        self.enter("create_repo", arguments)
        return RepoUrl(f"https://huggingface.co/{repo_id if '/' in repo_id else f'me/{repo_id}'}")

    def create_branch(self, repo_id, **arguments):
        self.enter("create_branch", arguments)

    def upload_folder(self, repo_id, folder_path, ignore_patterns, **arguments):
        self.enter("upload_folder", arguments)
        names = sorted(contents(folder_path))
        self.files[repo_id] = set(filter_repo_objects(names, ignore_patterns=ignore_patterns))


@pytest.fixture
def hub(monkeypatch):
    return FakeHub(monkeypatch)


@pytest.fixture
def folder(tiny_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "final"))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Modèle\n", encoding="utf-8")
    (folder / "learning_curve.png").write_bytes(bytes(range(256)) * 9)
    return folder


def contents(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_one_line_error(arguments, message):
    with pytest.raises(SystemExit, match=message) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code.startswith("error: ") and "\n" not in caught.value.code


def test_files_of_the_model_are_uploaded(hub, folder, capsys):
    for name in NOT_FOR_THE_HUB:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not for the Hub")
    main([str(folder), "me/promoters", "--private", "--commit_message", "first"])
    assert capsys.readouterr().out == "https://huggingface.co/me/promoters\n"
    assert hub.files == {"me/promoters": FILES}
    assert hub.arguments["create_repo"] == {"private": True, "exist_ok": True}
    assert hub.arguments["upload_folder"] == {"revision": None, "commit_message": "first"}
    assert "create_branch" not in hub.arguments


def test_name_alone_and_branch(hub, folder):
    assert push_folder(folder, "promoters", revision="v2") == "https://huggingface.co/me/promoters/tree/v2"
    assert hub.arguments["create_repo"] == {"private": None, "exist_ok": True}
    assert hub.arguments["create_branch"] == {"branch": "v2", "exist_ok": True}
    assert hub.arguments["upload_folder"]["revision"] == "v2" and hub.files == {"me/promoters": FILES}


def test_sharded_weights(hub, folder):
    model = MacaronForExpressionPrediction.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    push_folder(folder, "me/sharded")
    assert hub.files["me/sharded"] == contents(folder)
    (folder / shards[1]).unlink()
    with pytest.raises(ValueError, match=f"Missing: {shards[1]}$"):
        check_hub_folder(folder)


@pytest.mark.parametrize("name", sorted(FILES - {"learning_curve.png"}))
def test_nothing_is_uploaded_if_a_file_is_missing(hub, folder, name):
    (folder / name).unlink()
    assert_one_line_error([folder, "me/promoters"], f"final is not a complete model folder, nothing.*{name}")
    assert hub.arguments == {}


def test_all_missing_and_imported_files_are_named(folder):
    (folder / "README.md").unlink()
    with (folder / "pipeline_macaron.py").open("a") as file:
        file.write("\nfrom .units import to_assay_units\n")
    with pytest.raises(ValueError, match=r"Missing: README\.md, units\.py$"):
        check_hub_folder(folder)


@pytest.mark.parametrize(("name", "key"), [("config.json", "AutoModel"), ("tokenizer_config.json", "AutoTokenizer")])
def test_auto_map_names_the_classes(folder, name, key):
    settings = json.loads((folder / name).read_text())
    settings["auto_map"] = dict.fromkeys(settings["auto_map"], "me/base--base_model.Model")  # another repository
    (folder / name).write_text(json.dumps(settings))
    check_hub_folder(folder)
    del settings["auto_map"][key]
    (folder / name).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=f"Missing: {key} in the auto_map of {name}"):
        check_hub_folder(folder)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("status", "message"), [(401, ".*hf auth login"), (403, ".*write permission"), (413, "")])
def test_rejection_at_any_step(hub, folder, step, status, message):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    hub.error_at[step] = HfHubHTTPError("too\nlarge", response=response)
    message = f"the upload to me/promoters at .* failed: {message}.*HfHubHTTPError: too large"
    assert_one_line_error([folder, "me/promoters", "--revision", "v2"], message)
    assert hub.files == {}


def test_interrupted_upload_and_rejected_card(hub, folder):
    hub.error_at["upload_folder"] = RuntimeError("a large file failed")
    hub.error_at["upload_folder"].__cause__ = OSError("reset")
    assert_one_line_error([folder, "me/promoters"], "failed: OSError: reset")
    hub.error_at["upload_folder"] = ValueError("Invalid metadata in README.md.\n- no license")
    assert_one_line_error([folder, "me/promoters"], r"failed: .*Invalid metadata in README\.md\. - no license")


@pytest.mark.parametrize("name", ["a/b/c", "me/pro moters", "me/a--b", "https://huggingface.co/me/promoters"])
def test_impossible_names_are_rejected(folder, name):
    with pytest.raises(ValueError, match=r"[Rr]epo id|--"):
        push_folder(folder, name, token="hf_standin")


def test_missing_folder_token_and_connection(folder, tmp_path, monkeypatch):
    assert_one_line_error([tmp_path / "nowhere", "me/promoters"], "there is no folder .*nowhere")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert_one_line_error([folder, "me/promoters"], "no token found.*hf auth login")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    arguments = [folder, "me/promoters", "--token", "hf_standin"]
    assert_one_line_error(arguments, f"the Hub at {nowhere} cannot be reached .*refused.*: check the network")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_one_line_error(arguments, "offline mode is enabled")
