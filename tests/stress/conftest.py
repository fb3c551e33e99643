"""Inputs for commands that are killed or run on a full disk."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.stress.programs import run_well

ROWS = 20_000


@pytest.fixture(scope="session")
def inputs(tmp_path_factory, tiny_folder):
    """Folder with a model, its promoters as Parquet, a table to prepare and prepared training data."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "model").symlink_to(tiny_folder)
    bases = np.array(list("ACGT"))[np.random.default_rng(0).integers(0, 4, (ROWS, 12))]
    sequences = pa.array(np.ascontiguousarray(bases).view("U12").ravel())
    pa.parquet.write_table(pa.table({"sequence": sequences}), folder / "rows.parquet")
    for name, rows in (("rows", "20000"), ("few", "400")):
        run_well(["scripts/simulate.py", folder / f"{name}.tsv", "--num_sequences", rows], folder / "log")
    prepare = ["scripts/prepare_data.py", "--strand_length", "80", "--source", folder / "few.tsv"]
    run_well([*prepare, "--output", folder / "data"], folder / "log")
    return folder


@pytest.fixture(scope="session")
def training_command(inputs):
    """Make the command of a training of 40 steps that saves every second step and resumes."""

    def make(output, processes=1):
        launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port", "0", "--num_machines", "1"]
        launch += ["--num_processes", processes, "--mixed_precision", "no", "--dynamo_backend", "no"]
        options = {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 16,
            "conv_kernel_size": 3, "num_expression_positions": 4, "hidden_dropout": 0.1, "report_to": "none",
            "disable_tqdm": "true", "per_device_eval_batch_size": 64, "global_batch_size": 64, "max_steps": 40,
            "eval_steps": 2, "save_steps": 2, "logging_steps": 2, "save_total_limit": 3, "use_cpu": "true",
            "resume_from_checkpoint": "auto", "dataset": inputs / "data", "output_dir": output,
        }  # fmt: skip
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        return [*(launch if processes > 1 else []), "scripts/train.py", "configs/cpu_tiny.yaml", *words]

    return make
