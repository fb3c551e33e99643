"""Short training runs in this process or under the launcher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.training.arguments import MacaronTrainingArguments, parse_recipe
from modeling_macaron.training.collator import PromoterCollator
from modeling_macaron.training.dataset import PreparedData
from modeling_macaron.training.run import train
from modeling_macaron.training.trainer import MacaronTrainer
from tests.launching import free_port

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "configs" / "cpu_tiny.yaml")
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 16,
    "conv_kernel_size": 3, "num_expression_positions": 4,
}  # fmt: skip


def options(**values):
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


TINY = options(**SIZES, report_to="none", disable_tqdm="true", per_device_eval_batch_size=64)
SHORT = options(global_batch_size=64, max_steps=12, eval_steps=4, save_steps=4, logging_steps=2, save_total_limit=5)
ONE_STEP = options(max_steps=1, eval_steps=1, save_steps=1, global_batch_size=32)


def parse(data, output_dir, *words, recipe=RECIPE):
    return parse_recipe([str(recipe), *options(dataset=data, output_dir=output_dir), *TINY, *map(str, words)])


def run(data, output_dir, *words):
    """Train in this process. Returns the final folder."""
    return train(*parse(data, output_dir, *words))


def start(launcher, script, words):
    """Start a script under accelerate's launcher."""
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", *launcher, str(script), RECIPE, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip


def launch(words, processes=1):
    """Start `accelerate launch scripts/train.py`."""
    # `--cpu --num_processes 2` starts one process if there is no MPI.
    several = ["--multi_gpu", "--main_process_port", free_port()] if processes > 1 else ["--cpu"]
    launcher = options(num_processes=processes, num_machines=1, mixed_precision="no", dynamo_backend="no")
    return start([*several, *launcher], ROOT / "scripts" / "train.py", words)


def finish(process, timeout=300):
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output[-3000:]
    return output


def weights_of(folder, name="model.safetensors"):
    return load_file(Path(folder) / name)


def assert_close(folder, other, name="model.safetensors", **tolerance):
    """Compare the weights of two folders, exactly if there is no tolerance."""
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    torch.testing.assert_close(weights_of(folder, name), weights_of(other, name), **tolerance)


def logged(checkpoint, name):
    history = json.loads((Path(checkpoint) / "trainer_state.json").read_text())["log_history"]
    return [entry[name] for entry in history if name in entry]


def tiny_model(**fields):
    torch.manual_seed(0)
    return MacaronForExpressionPrediction(
        MacaronConfig(**{"strand_length": 80, "hidden_dropout": 0.0, **SIZES, **fields})
    )


def make_trainer(prepared, output_dir, model=None, **values):
    data = PreparedData(prepared)
    values = {"max_steps": 1, "logging_steps": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": True, **values}
    return MacaronTrainer(
        model=tiny_model() if model is None else model,
        args=MacaronTrainingArguments(output_dir=str(output_dir), dataset=str(prepared), **values),
        data_collator=PromoterCollator(data.expression_mean, data.expression_std, mask_probability=0.2),
        train_dataset=data.train,
        eval_dataset=data.validation,
    )
