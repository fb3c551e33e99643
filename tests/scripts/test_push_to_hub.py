"""Pushing to the Hub, against a local stand-in for the calls that an upload makes."""

import base64
import hashlib
import json
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

from modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.hub import check_hub_folder, push_folder
from scripts.push_to_hub import main

TOKEN = "hf_standin"
FILES = {
    "README.md", "config.json", "configuration_macaron.py", "model.safetensors", "modeling_macaron.py",
    "pipeline_macaron.py", "tokenization_kmer.py", "tokenizer_config.json", "learning_curve.png",
}  # fmt: skip
NOT_FOR_THE_HUB = [
    "checkpoint-5/model.safetensors", "checkpoint-5/deep/optimizer.pt", "optimizer.pt", "training_args.bin",
    "runs/a/events.out.tfevents.1", "events.out.tfevents.2", "trainer_state.json", "__pycache__/x.pyc",
]  # fmt: skip


class HubHandler(BaseHTTPRequestHandler):
    """Create a repository or branch, check a model card, plan the upload, receive large files, commit."""

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
        for part, (status, error) in self.server.rejects.items():
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
    server.repositories, server.large_files, server.rejects, server.calls = {}, {}, {}, []
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


@pytest.fixture
def folder(tiny_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "final"))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Modèle\n", encoding="utf-8")
    (folder / "learning_curve.png").write_bytes(bytes(range(256)) * 9)
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_one_line_error(arguments, message):
    with pytest.raises(SystemExit, match=message) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code.startswith("error: ") and "\n" not in caught.value.code


def test_all_files_arrive_unchanged(hub, folder, capsys):
    expected = contents(folder)
    assert expected.keys() == FILES
    for name in NOT_FOR_THE_HUB:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not for the Hub")
    main([str(folder), "me/promoters", "--private", "--commit_message", "first"])
    assert capsys.readouterr().out == f"{hub.url}/me/promoters\n"
    repository = hub.repositories["me/promoters"]
    assert repository["branches"] == {"main": expected}
    assert repository["message"] == "first"
    request = repository["request"]  # older clients use another field
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


def test_sharded_weights(hub, folder):
    model = MacaronForExpressionPrediction.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    push_folder(folder, "me/sharded")
    assert hub.repositories["me/sharded"]["branches"]["main"] == contents(folder)
    (folder / shards[1]).unlink()
    with pytest.raises(ValueError, match=f"Missing: {shards[1]}$"):
        check_hub_folder(folder)


@pytest.mark.parametrize("name", sorted(FILES - {"learning_curve.png"}))
def test_nothing_is_uploaded_if_a_file_is_missing(hub, folder, name):
    (folder / name).unlink()
    assert_one_line_error([folder, "me/promoters"], f"final is not a complete model folder, nothing.*{name}")
    assert hub.calls == []


def test_all_missing_files_are_named(folder):
    for name in ("README.md", "tokenization_kmer.py", "model.safetensors"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"Missing: README\.md, model\.safetensors, tokenization_kmer\.py$"):
        check_hub_folder(folder)


def test_imported_modules_are_needed(folder):
    with (folder / "pipeline_macaron.py").open("a") as file:
        file.write("\nfrom .units import to_assay_units\n")
    with pytest.raises(ValueError, match=r"Missing: units\.py$"):
        check_hub_folder(folder)


@pytest.mark.parametrize(("name", "key"), [("config.json", "AutoModel"), ("tokenizer_config.json", "AutoTokenizer")])
def test_auto_map_names_the_classes(folder, name, key):
    settings = json.loads((folder / name).read_text())
    del settings["auto_map"][key]
    (folder / name).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=f"Missing: {key} in the auto_map of {name}"):
        check_hub_folder(folder)


def test_code_may_be_in_another_repository(folder):
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModel"), "me/base--base_model.Model")
    (folder / "config.json").write_text(json.dumps(settings))
    check_hub_folder(folder)


@pytest.mark.parametrize("name", ["a/b/c", "me/pro moters", "me/a--b", "-x", "https://huggingface.co/me/promoters"])
def test_impossible_names_are_rejected(hub, folder, name):
    with pytest.raises(ValueError, match=r"[Rr]epo id|--"):
        push_folder(folder, name)
    assert hub.calls == []


@pytest.mark.parametrize("call", ["/api/repos/create", "/preupload/", "/branch/", "objects/batch", "/commit/"])
@pytest.mark.parametrize(("status", "message"), [(401, ".*hf auth login"), (403, ".*write permission"), (413, ".*413")])
def test_rejection_at_any_step(hub, folder, call, status, message):
    hub.rejects[call] = (status, "you may not")
    assert_one_line_error([folder, "me/promoters", "--revision", "v2"], f"upload to me/promoters .*{message}")
    assert not hub.repositories.get("me/promoters", {}).get("branches")


def test_rejected_weights(hub, folder, monkeypatch):
    monkeypatch.setattr(HubHandler, "do_PUT", lambda handler: (handler.read_body(), handler.answer({}, 403)))
    assert_one_line_error([folder, "me/promoters"], "upload to me/promoters .*failed: .*403")
    assert hub.repositories["me/promoters"]["branches"] == {}


def test_rejected_model_card(hub, folder):
    hub.rejects["/api/validate-yaml"] = (400, '"license" must be one of ...')
    assert_one_line_error([folder, "me/promoters"], r'failed: .*Invalid metadata in README\.md\. - "license"')


def test_missing_folder_token_and_connection(hub, folder, tmp_path, monkeypatch):
    assert_one_line_error([tmp_path / "nowhere", "me/promoters"], "there is no folder .*nowhere")
    monkeypatch.delenv("HF_TOKEN")
    assert_one_line_error([folder, "me/promoters"], "no token found.*hf auth login")
    assert hub.calls == []
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    arguments = [folder, "me/promoters", "--token", TOKEN]
    assert_one_line_error(arguments, f"the Hub at {nowhere} cannot be reached .*refused.*: check the network")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_one_line_error(arguments, "offline mode is enabled")
