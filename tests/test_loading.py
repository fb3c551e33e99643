"""Loading of checkpoints: Hub names, folders and changes of the config."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch

from modeling_macaron.loading import load_checkpoint

LOAD = """
import sys
from modeling_macaron.loading import load_checkpoint
try:
    print(load_checkpoint("google/x")[0].config.hidden_size)
except OSError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
NEITHER = "there is no checkpoint folder google/x, and no repository of this name on the Hub can be read"


@pytest.fixture
def hub(tiny_folder):
    """Start a local Hub with google/x. Requests for files in `broken` close the connection."""
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


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["", "tokenizer_config.json", "offline"])
def test_a_name_next_to_a_folder_of_its_owner_is_looked_up_on_the_hub(hub, tmp_path, broken):
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
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"FileNotFoundError: {NEITHER}: ")


def test_run_folders_resolve_to_their_model(tmp_path):
    (tmp_path / "run" / "final").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"did you mean .*final"):
        load_checkpoint(tmp_path / "run")


def test_changes_replace_fields_of_the_config(tiny_folder):
    model, _ = load_checkpoint(tiny_folder, hidden_dropout=0.25, reconstruction_weight=0.5, dtype="float64")
    assert (model.config.hidden_dropout, model.config.reconstruction_weight, model.dtype) == (0.25, 0.5, torch.float64)
    assert model.dropout.p == 0.25 and model.name_or_path == str(tiny_folder)
    with pytest.raises(ValueError, match=r"`hidden_dropout` must be in .*, got 1\.5") as caught:
        load_checkpoint(tiny_folder, hidden_dropout=1.5)
    assert str(tiny_folder) not in str(caught.value), "the caller's mistake, not the checkpoint's"
