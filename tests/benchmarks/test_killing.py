"""Kills of the reliability benchmark: they reach every process, and it is known when."""

import sys
import time

import psutil
import pytest

from benchmarks import faults, killing

# A launcher whose worker is in a session of its own, as that of `accelerate launch` is.
LAUNCHER = """
import subprocess, sys
worker = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", worker, sys.argv[1]], start_new_session=True).wait()
"""


def is_running(process):
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def test_a_kill_reaches_workers_in_sessions_of_their_own(tmp_path):
    path = tmp_path / "worker"
    began = time.monotonic()
    assert killing.kill_when(
        [sys.executable, "-c", LAUNCHER, str(path)], lambda: path.is_file() and path.read_text() != "", 0.0
    )
    assert time.monotonic() - began < 50 and not is_running(int(path.read_text()))


def test_a_program_that_ends_before_is_not_killed():
    assert not killing.kill_when([sys.executable, "-c", ""], lambda: False, 0.0)
    with pytest.raises(RuntimeError, match="failed: oh"):
        killing.kill_when([sys.executable, "-c", "import sys; sys.exit('oh')"], lambda: False, 0.0)


def test_time_of_an_undisturbed_run(tmp_path):
    path = tmp_path / "output"
    program = "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(1)"
    times = killing.time_undisturbed([sys.executable, "-c", program, str(path)], path.exists)
    assert times.work > 0 and times.work + 0.9 < times.end
    with pytest.raises(RuntimeError, match="did nothing"):
        killing.time_undisturbed([sys.executable, "-c", ""], lambda: False)


LONG = "print('line of output ' * 20_000)"  # more than a pipe holds


def test_programs_may_say_more_than_a_pipe_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(killing, "PATIENCE", 20.0)
    path = tmp_path / "output"
    program = f"import sys, time; open(sys.argv[1], 'w').close(); {LONG}; time.sleep(0.5)"
    assert killing.time_undisturbed([sys.executable, "-c", program, str(path)], path.exists).end < 20
    assert not killing.kill_when([sys.executable, "-c", LONG], lambda: False, 0.0)
    with pytest.raises(RuntimeError, match="line of output"):
        killing.run_to_the_end([sys.executable, "-c", f"{LONG}; raise SystemExit(3)"])
    assert killing.outcome_of([sys.executable, "-c", LONG])[1].startswith("line of output")


@pytest.mark.parametrize(
    "way",
    [
        killing.run_to_the_end,
        lambda command: killing.time_undisturbed(command, lambda: False),
        lambda command: killing.kill_when(command, lambda: False, 0.0),
    ],
)
def test_programs_without_an_end_are_killed(tmp_path, monkeypatch, way):
    monkeypatch.setattr(killing, "PATIENCE", 4.0)  # a busy machine takes seconds to start the worker
    path, began = tmp_path / "worker", time.monotonic()
    with pytest.raises(TimeoutError, match="goes on after 4 second"):
        way([sys.executable, "-c", LAUNCHER, str(path)])
    assert time.monotonic() - began < 20 and not is_running(int(path.read_text()))


def test_what_was_written_since(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/old").write_text("")
    paths = [tmp_path / "folder", tmp_path / "gone"]
    assert killing.written_since(paths, time.time() - 60) and not killing.written_since(paths, time.time() + 60)


def test_where_a_kill_of_training_fell(tmp_path):
    for name in ("checkpoint-2", "checkpoint-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("")
    (tmp_path / "checkpoint-2/trainer_state.json").write_text("")
    state = faults._TrainingState(tmp_path)
    names = ("in_a_checkpoint", "in_a_half_one", "in_the_result", "before_any")

    def count(began):
        counts = dict.fromkeys(names, 0)
        state.count(counts, began)
        return list(counts.values())

    assert count(time.time() + 60) == [0, 0, 0, 1]  # nothing was written since
    assert count(time.time() - 60) == [1, 1, 0, 0]  # checkpoint-4 had been half before
    (tmp_path / ".final.partial-here-1").mkdir()
    assert count(time.time() - 60) == [1, 1, 1, 0]


def test_full_disks_are_left_out_with_a_line_where_nothing_can_be_mounted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(faults, "run_to_the_end", lambda command: "")
    monkeypatch.setattr(faults, "ROWS", 3)
    (tmp_path / "mount").write_text("#!/bin/sh\nexit 32\n")
    (tmp_path / "mount").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    results = faults.Results("faults", {})
    faults.run(results, 1, ["disk"], tmp_path, 0)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert "cannot be mounted" in line and not results.checks
