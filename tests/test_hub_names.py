"""Checkpoints named on the Hub, which is a local server here."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError

from modeling_macaron import MacaronConfig
from modeling_macaron.loading import check_checkpoint_name, load_model

LOAD = """
import sys
from modeling_macaron.loading import load_model
try:
    print(load_model("google/x")[0].config.hidden_size)
except OSError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
NEITHER = "there is no checkpoint folder google/x, and no repository of this name on the Hub can be read"


@pytest.fixture
def hub(tiny_folder):
    """Start a Hub that has google/x and closes the connection on requests for the files in `broken`."""
    broken = set()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            name = self.path.rpartition("/")[2]
            if name in broken:
                return self.connection.close()
            path = tiny_folder / name
            is_there = self.path.startswith("/google/x/resolve/") and path.is_file()
            content = path.read_bytes() if is_there else b""
            self.send_response(200 if is_there else 404)
            for field in ("X-Repo-Commit: " + "0" * 40, f'ETag: "{name}"', f"Content-Length: {len(content)}"):
                self.send_header(*field.split(": "))
            if not is_there:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.broken = broken
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("broken", ["", "tokenizer_config.json", "offline"])
def test_a_name_beside_a_folder_of_its_owner_is_loaded_from_the_hub(hub, tmp_path, broken):
    (tmp_path / "google").mkdir()
    hub.broken.add(broken)
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1" if broken == "offline" else "0",
    }  # fmt: skip
    command = [sys.executable, "-c", LOAD]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if not broken:
        assert done.stdout == "16\n", done.stderr
        return
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"FileNotFoundError: {NEITHER}: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("error", [OSError, LocalEntryNotFoundError, HTTPError])
def test_errors_of_the_hub_are_one_line(monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error("first line\nand second")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MacaronConfig, "get_config_dict", fail)
    with pytest.raises(FileNotFoundError, match=f"{NEITHER}: .*first line and second"):
        load_model("google/x")
    assert issubclass(HfHubHTTPError, HTTPError)


@pytest.mark.parametrize("name", ["x", "a/b/c", "./google/x", "/google/x"])
def test_impossible_names_on_the_hub_are_folders(name):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint folder"):
        check_checkpoint_name(name)
