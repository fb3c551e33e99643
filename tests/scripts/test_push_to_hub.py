"""Pushing to the Hub, against a local stand-in for the calls that an upload makes."""

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.numpy import save_file

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.hub import check_hub_folder, push_folder
from tokenization import KmerTokenizer

SCRIPT = Path(__file__).parents[2] / "scripts" / "push_to_hub.py"
TOKEN = "hf_standin"
FILES = {
    "README.md", "config.json", "configuration_macaron.py", "model.safetensors", "modeling_macaron.py",
    "pipeline_macaron.py", "tokenization_kmer.py", "tokenizer_config.json", "learning_curve.png",
}  # fmt: skip
LEFT_BEHIND = ["checkpoint-5/model.safetensors", "checkpoint-5/deep/optimizer.pt", "optimizer.pt", "training_args.bin"]
LEFT_BEHIND += ["runs/a/events.out.tfevents.1", "events.out.tfevents.2", "trainer_state.json", "__pycache__/x.pyc"]


class HubHandler(BaseHTTPRequestHandler):
    """Create a repository or branch, check a model card, tell how to upload, take large files, commit."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content=None, status=200, **headers):
        body = json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_GET(self):
        self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    def do_PUT(self):
        content, oid = self.read_body(), self.path.rsplit("/", 1)[1]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.large_files[oid] = content
        self.answer()

    def do_POST(self):
        body, path = self.read_body(), unquote(self.path)
        self.server.calls.append(path)
        for part, (status, error) in self.server.refuses.items():
            if part in path:
                return self.answer({"error": error, "errors": [{"message": error}]}, status)
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in path:
            modes = [
                ("lfs" if f["path"].endswith("safetensors") else "regular", f["path"])
                for f in json.loads(body)["files"]
            ]
            return self.answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for m, p in modes]})
        if path.endswith(".git/info/lfs/objects/batch"):
            href = f"{self.server.url}/large/"
            actions = [o | {"actions": {"upload": {"href": href + o["oid"]}}} for o in json.loads(body)["objects"]]
            return self.answer({"transfer": "basic", "objects": actions})
        if "/branch/" in path:
            return self.answer({}, 201)
        if "/commit/" in path:
            return self.commit(path, [json.loads(line) for line in body.splitlines()])
        return self.answer({"error": f"unknown call {path}"}, 500)

    def create(self, request):
        repo_id = f"{request['organization'] or 'me'}/{request['name']}"
        known = repo_id in self.server.repositories
        self.server.repositories.setdefault(repo_id, {"request": request, "branches": {}})
        self.answer({"url": f"{self.server.url}/{repo_id}"}, 409 if known else 200)

    def commit(self, path, lines):
        repo_id, branch = path.removeprefix("/api/models/").split("/commit/")
        repository = self.server.repositories[repo_id]
        repository["message"] = lines[0]["value"]["summary"]
        files = repository["branches"].setdefault(branch, {})
        for line in lines[1:]:
            value = line["value"]
            large = line["key"] == "lfsFile"
            files[value["path"]] = (
                self.server.large_files[value["oid"]] if large else base64.b64decode(value["content"])
            )
        self.answer({"commitUrl": f"{self.server.url}/{repo_id}/commit/0", "commitOid": "0" * 40})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.repositories, server.large_files, server.refuses, server.calls = {}, {}, {}, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def complete_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("push") / "final"
    config = MacaronConfig(
        kmer_size=3, strand_length=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=16,
        intermediate_size=16, conv_kernel_size=3, num_expression_positions=2,
    )  # fmt: skip
    MacaronForExpressionPrediction(config).save_pretrained(folder)
    KmerTokenizer(kmer_size=3, strand_length=20).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Modèle\n", encoding="utf-8")
    (folder / "learning_curve.png").write_bytes(bytes(range(256)) * 9)
    return folder


@pytest.fixture
def folder(complete_folder, tmp_path):
    return Path(shutil.copytree(complete_folder, tmp_path / "final"))


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("push_to_hub_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_one_line_error(script, arguments, message):
    with pytest.raises(SystemExit, match=message) as caught:
        script.main([str(argument) for argument in arguments])
    assert caught.value.code.startswith("error: ") and "\n" not in caught.value.code


def test_every_file_arrives_as_it_is(hub, folder):
    expected = contents(folder)
    assert expected.keys() == FILES
    for name in LEFT_BEHIND:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not for the Hub")
    options = ["--private", "--commit_message", "first"]
    settings = {"PYTHONPATH": str(SCRIPT.parents[1]), "HF_HOME": str(folder.parent / "hf"), "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), "me/promoters", *options],
        capture_output=True, text=True, check=False, env=os.environ | settings, cwd=folder.parent, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{hub.url}/me/promoters\n"
    repository = hub.repositories["me/promoters"]
    assert repository["branches"] == {"main": expected}
    assert repository["message"] == "first"
    request = repository["request"]  # older clients say it otherwise
    assert request.get("visibility") == "private" or request.get("private") is True
    assert [hashlib.sha256(expected["model.safetensors"]).hexdigest()] == list(hub.large_files)


def test_name_alone_branch_and_second_push(hub, folder):
    assert push_folder(folder, "promoters") == f"{hub.url}/me/promoters"
    request = hub.repositories["me/promoters"]["request"]
    assert request.get("visibility") != "private" and not request.get("private")
    (folder / "README.md").write_text("# changed\n")
    assert push_folder(folder, "promoters", revision="v2") == f"{hub.url}/me/promoters/tree/v2"
    branches = hub.repositories["me/promoters"]["branches"]
    assert branches["v2"] == contents(folder) and branches["main"]["README.md"] != b"# changed\n"
    assert "/api/models/me/promoters/branch/v2" in hub.calls


def test_sharded_weights(hub, folder):
    with safe_open(folder / "model.safetensors", "numpy") as weights:
        tensors = {name: weights.get_tensor(name) for name in list(weights.keys())}
    (folder / "model.safetensors").unlink()
    shards = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(tensors)}
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name in tensors if shards[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    push_folder(folder, "me/sharded")
    assert hub.repositories["me/sharded"]["branches"]["main"] == contents(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"Missing: model-00002-of-00002\.safetensors$"):
        check_hub_folder(folder)


@pytest.mark.parametrize("name", sorted(FILES - {"learning_curve.png"}))
def test_nothing_is_uploaded_when_a_file_is_missing(hub, folder, script, name):
    (folder / name).unlink()
    with pytest.raises(SystemExit, match=f"error: .*final is not a complete model folder, nothing.*{name}"):
        script.main([str(folder), "me/promoters"])
    assert hub.calls == []


def test_all_that_is_missing_is_named_at_once(folder):
    for name in ("README.md", "tokenization_kmer.py", "model.safetensors"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"Missing: README\.md, tokenization_kmer\.py, model\.safetensors$"):
        check_hub_folder(folder)


def test_a_module_that_only_another_one_imports_is_needed(folder):
    with (folder / "pipeline_macaron.py").open("a") as file:
        file.write("\nfrom .units import to_assay_units\n")
    with pytest.raises(ValueError, match=r"Missing: units\.py$"):
        check_hub_folder(folder)
    (folder / "units.py").write_text("to_assay_units = float\n")
    check_hub_folder(folder)


@pytest.mark.parametrize(("name", "key"), [("config.json", "AutoModel"), ("tokenizer_config.json", "AutoTokenizer")])
def test_an_auto_map_without_the_class_is_refused(folder, name, key):
    settings = json.loads((folder / name).read_text())
    del settings["auto_map"][key]
    (folder / name).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=f"Missing: {key} in the auto_map of {name}"):
        check_hub_folder(folder)


def test_code_that_lives_in_another_repository_is_not_looked_for_here(folder):
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModel"), "me/base--base_model.Model")
    (folder / "config.json").write_text(json.dumps(settings))
    check_hub_folder(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"\x10", "model.safetensors .there, but broken"),
        ("config.json", b'{"auto_map": ', "config.json is not valid JSON"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json is not a JSON object"),
    ],
)
def test_broken_files_are_refused(hub, folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        push_folder(folder, "me/promoters")
    assert hub.calls == []


def test_a_folder_that_is_not_there(hub, tmp_path):
    with pytest.raises(NotADirectoryError, match=r"there is no folder .*nowhere"):
        push_folder(tmp_path / "nowhere", "me/promoters")


@pytest.mark.parametrize("name", ["a/b/c", "me/pro moters", "me/a--b", "-x", "https://huggingface.co/me/promoters"])
def test_impossible_names_are_refused(hub, folder, name):
    with pytest.raises(ValueError, match=r"[Rr]epo id|--"):
        push_folder(folder, name)
    assert hub.calls == []


def test_no_token(hub, folder, script, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert_one_line_error(
        script, [folder, "me/promoters"], "no Hugging Face token: run `hf auth login` or set HF_TOKEN"
    )
    assert hub.calls == []


def test_wrong_token(hub, folder):
    with pytest.raises(PermissionError, match=r"rejected the token for .* \(401\).*hf auth login") as caught:
        push_folder(folder, "me/promoters", token="hf_wrong")
    assert "\n" not in str(caught.value) and "hf_wrong" not in str(caught.value)
    assert hub.repositories == {}


@pytest.mark.parametrize("call", ["/api/repos/create", "/preupload/", "/branch/", "objects/batch", "/commit/"])
@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (403, PermissionError, r"rejected the token for me/promoters \(403\) \(it says: you may not\)"),
        (401, PermissionError, r"rejected the token for me/promoters \(401\)"),
        (413, ConnectionError, r"the Hub answered 413 .*\(it says: you may not\)"),
    ],
)
def test_refused_at_any_step(hub, folder, call, status, error, message):
    hub.refuses[call] = (status, "you may not")
    with pytest.raises(error, match=message) as caught:
        push_folder(folder, "me/promoters", revision="v2")
    assert "\n" not in str(caught.value)
    assert not hub.repositories.get("me/promoters", {}).get("branches")


def test_refused_weights(hub, folder, monkeypatch):
    monkeypatch.setattr(HubHandler, "do_PUT", lambda handler: (handler.read_body(), handler.answer({}, 403)))
    with pytest.raises(ConnectionError, match=r"upload to me/promoters was interrupted, push again: .*403"):
        push_folder(folder, "me/promoters")
    assert hub.repositories["me/promoters"]["branches"] == {}


def test_refused_model_card(hub, folder):
    hub.refuses["/api/validate-yaml"] = (400, '"license" must be one of ...')
    with pytest.raises(ValueError, match=r'rejected the upload .*: Invalid metadata in README\.md\. - "license"'):
        push_folder(folder, "me/promoters")


def test_no_connection(hub, folder, script, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    message = f"the Hub at {nowhere} cannot be reached .*refused.*: check the network"
    assert_one_line_error(script, [folder, "me/promoters"], message)


def test_offline_mode(hub, folder, script, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_one_line_error(script, [folder, "me/promoters"], "offline mode is on: unset HF_HUB_OFFLINE")
    assert hub.calls == []
