"""Commands report a broken Hub or a closed connection in one line."""

import runpy
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest
from huggingface_hub import HfFileSystem, constants
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

from modeling_macaron import MacaronConfig
from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.sources import open_source
from modeling_macaron.loading import check_checkpoint_name, load_checkpoint

ROOT = Path(__file__).parents[1]
PUSH = ["--push_to_hub", "true", "--hub_model_id", "me/x"]
COMMANDS = {
    "push": ["push_to_hub.py", "FOLDER", "me/x"],
    "train and push": ["train.py", "RECIPE", "--dataset", "DATA", "--output_dir", "OUT", *PUSH],
    "fine-tune": ["train.py", "RECIPE", "--dataset", "DATA", "--output_dir", "OUT", "--init_from", "me/x"],
    "stream": [
        *("train.py", "RECIPE", "--dataset", "DATA", "--output_dir", "OUT"),
        *("--stream", "hf://datasets/me/x/*.parquet", "--max_steps", "2"),
    ],
    "stream over HTTP": [
        *("train.py", "RECIPE", "--dataset", "DATA", "--output_dir", "OUT"),
        *("--stream", "URL", "--max_steps", "2"),
    ],
    "predict": ["predict.py", "me/x", "IN", "OUT"],
    "prepare": ["prepare_data.py", "--source", "me/x", "--output", "OUT"],
    "prepare for a model": ["prepare_data.py", "--source", "simulate", "--output", "OUT", "--init_from", "me/x"],
}


class BrokenHubHandler(BaseHTTPRequestHandler):
    """Serve the files of a folder and fail on everything else."""

    def log_message(self, *args):
        pass

    def send(self, body, length):
        self.send_response(200)
        for name, value in {"Content-Length": length, "ETag": f'"{length}"', "X-Repo-Commit": "a" * 40}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self):
        file = self.server.served and self.server.served / self.path.partition("/resolve/")[2].partition("/")[2]
        if file and file.is_file():
            body = file.read_bytes()
            self.send(body, len(body))
        elif self.server.mode == "breaks off":
            self.send(b'{"model_type": ', 1000)
        elif self.server.mode == "garbage":
            self.wfile.write(b"\x00\xffno HTTP\r\n\r\n")
        elif self.server.mode == "another site":
            self.send(b"<html>Welcome!</html>", 21)

    do_GET = do_HEAD = do_POST = do_PUT = answer


@pytest.fixture
def broken_hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), BrokenHubHandler)
    server.served = None
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)
    for module in (constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_standin")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    HfFileSystem.clear_instance_cache()
    yield server
    server.shutdown()
    server.server_close()


def run(tmp_path, command):
    """Run a command in this process and return its exit."""
    (tmp_path / "in.tsv").write_text("sequence\nACGT\n")
    names = {
        "RECIPE": ROOT / "configs" / "cpu_tiny.yaml", "DATA": tmp_path / "data", "OUT": tmp_path / "out.tsv",
        "FOLDER": tmp_path / "final", "IN": tmp_path / "in.tsv", "URL": f"{constants.ENDPOINT}/*.parquet",
    }  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "scripts" / command[0]))["main"]([str(names.get(word, word)) for word in command[1:]])
    return stop.value.code


@pytest.fixture
def inputs(tmp_path, tiny_folder):
    """Prepared data set and a folder to push."""
    (tmp_path / "final").mkdir()
    for file in tiny_folder.iterdir():
        (tmp_path / "final" / file.name).symlink_to(file)
    (tmp_path / "final" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    prepare_dataset(open_source("simulate", num_sequences=50), tmp_path / "data", validation_fraction=0.3)


@pytest.mark.parametrize("mode", ["closes", "breaks off", "garbage", "another site"])
@pytest.mark.parametrize("command", COMMANDS)
def test_broken_hub_is_reported_in_one_line(broken_hub, inputs, tmp_path, command, mode):
    broken_hub.mode = mode
    message = run(tmp_path, COMMANDS[command])
    assert message.startswith("error: ") and "\n" not in message
    assert "the Hub" in message or ".parquet" in message or "upload" in message or mode == "another site"
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.parametrize("mode", ["closes", "breaks off", "garbage", "another site"])
def test_failed_weights_are_reported_in_one_line(broken_hub, inputs, tmp_path, tiny_folder, mode):
    broken_hub.mode, broken_hub.served = mode, tmp_path / "served"
    broken_hub.served.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (broken_hub.served / name).write_bytes((tiny_folder / name).read_bytes())
    message = run(tmp_path, COMMANDS["predict"])
    assert message.startswith("error: ") and "\n" not in message
    assert "cannot be reached" in message or mode == "another site"


def test_failed_streams_are_reported_in_one_line(tmp_path, monkeypatch):
    def rows():
        yield from ({"sequence": "ACGT" * 20, "expression": float(value)} for value in range(10))
        raise HTTPError("peer closed connection")

    stream = datasets.IterableDatasetDict({"train": datasets.IterableDataset.from_generator(rows)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: stream)
    message = run(tmp_path, COMMANDS["prepare"])
    assert message.startswith("error: data set me/x: the Hub cannot be reached") and "\n" not in message
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.parametrize("error", [OSError, LocalEntryNotFoundError, HTTPError])
def test_unknown_names_are_reported_in_one_line(monkeypatch, error):
    def fail(*_, **__):
        raise error("first line\nand second")

    monkeypatch.setattr(MacaronConfig, "get_config_dict", fail)
    message = "no checkpoint folder google/x, and no repository of this name .*: .*first line and second"
    with pytest.raises(FileNotFoundError, match=message):
        load_checkpoint("google/x")


@pytest.mark.parametrize("name", ["x", "a/b/c", "./google/x", "/google/x"])
def test_invalid_hub_names_are_folders(name):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint folder"):
        check_checkpoint_name(name)
