"""A full disk ends a command with one clear line and no partial output."""

import subprocess

import pytest
from safetensors.torch import load_file

from tests.stress.programs import run


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk with the given number of bytes. Needs root and Linux."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no small disk can be mounted here")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (["scripts/predict.py", "{inputs}/model", "{inputs}/rows.parquet"], "out.csv"),
        (["scripts/mutagenesis.py", "{inputs}/model", "{inputs}/rows.parquet"], "out.csv"),
        (["scripts/prepare_data.py", "--source", "{inputs}/rows.tsv", "--output"], "out"),
        (["scripts/simulate.py", "--num_sequences", "20000"], "out.tsv"),
    ],
    ids=["predict", "mutagenesis", "prepare", "simulate"],
)
def test_output_does_not_fit(inputs, small_disk, tmp_path, command, output):
    path = small_disk(400_000) / output
    code, message = run([*(word.format(inputs=inputs) for word in command), path], tmp_path / "log")
    assert code == 1 and "Traceback" not in message
    assert message.splitlines()[-1].startswith("error: no space is left")
    assert not path.exists()


def test_checkpoints_before_the_full_one_are_whole(training_command, small_disk, tmp_path):
    output = small_disk(600_000) / "run"
    code, message = run(training_command(output), tmp_path / "log")
    (line,) = [line for line in message.splitlines() if line.startswith("error:")]
    assert code == 1 and line.startswith("error: no space is left") and "Traceback" not in message
    checkpoints = [path for path in output.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    assert checkpoints and not (output / "final").exists()
    for path in checkpoints:
        load_file(path / "model.safetensors")
