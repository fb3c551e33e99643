"""Killed and restarted commands write the same as an undisturbed run."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.stress.programs import kill_again_and_again, run_well

pytestmark = pytest.mark.timeout(3600)

SHORT = 0.01  # less than it takes to write a checkpoint, the final folder or the joined parts


def same_tree(one, other, suffix):
    """Whether two folders have the same files with a suffix, byte for byte, and at least one."""
    names = sorted(path.relative_to(one) for path in one.rglob(f"*{suffix}"))
    assert names == sorted(path.relative_to(other) for path in other.rglob(f"*{suffix}")) != []
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.mark.parametrize("processes", [1, 2])
def test_training_ends_with_the_same_weights(training_command, tmp_path, processes):
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "log"
    seconds = run_well(training_command(whole, processes), log)
    expected = load_file(whole / "final/model.safetensors")

    def finish():
        if (broken / "final").is_dir():
            found = load_file(broken / "final/model.safetensors")
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
            shutil.rmtree(broken)

    in_a_checkpoint = ["checkpoint-*/*.safetensors"], SHORT
    in_the_result = [".final.*"], SHORT
    moments = [in_a_checkpoint, ([], seconds)] * 4 + [in_a_checkpoint, in_the_result]
    command = training_command(broken, processes)
    kill_again_and_again(command, broken, moments, finish, log)
    run_well(command, log)
    finish()
    assert not broken.exists()


def test_prediction_writes_the_same_bytes(inputs, tmp_path):
    whole, broken, log = tmp_path / "whole.csv", tmp_path / "broken.csv", tmp_path / "log"
    parts = tmp_path / "broken.csv.parts"
    predict = ["scripts/predict.py", inputs / "model", inputs / "rows.parquet"]
    seconds = run_well([*predict, whole, "--batch_size", "64"], log)

    def finish():
        if broken.exists():
            assert broken.read_bytes() == whole.read_bytes()
            broken.unlink()
            shutil.rmtree(parts, ignore_errors=True)

    at_work = ["broken.csv.parts/*.arrow", ".broken.csv.partial"], seconds
    moments = [at_work, ([".broken.csv.partial"], SHORT), at_work, ([], seconds)]
    command = [*predict, broken, "--batch_size", "64", "--resume"]
    kill_again_and_again(command, tmp_path, moments, finish, log)
    run_well(command, log)
    assert broken.exists() and not parts.exists() and not list(tmp_path.glob(".broken*"))
    finish()


def test_preparation_writes_the_same_bytes(inputs, tmp_path):
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "log"
    prepare = ["scripts/prepare_data.py", "--source", inputs / "rows.tsv", "--strand_length", "80", "--output"]
    seconds = run_well([*prepare, whole], log)

    def finish():
        if broken.exists():
            assert same_tree(whole, broken, ".arrow")
            shutil.rmtree(broken)

    at_work = [".broken.partial"], seconds
    kill_again_and_again([*prepare, broken], tmp_path, [at_work, at_work, at_work, ([], seconds)], finish, log)
    run_well([*prepare, broken], log)
    assert broken.exists() and not list(tmp_path.glob(".broken*"))
    finish()
