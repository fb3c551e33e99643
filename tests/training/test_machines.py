"""Launch files of accelerate, two nodes of one process each, and sharded models."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from modeling_macaron import MacaronForExpressionPrediction, modeling_macaron
from tests.launching import free_port
from tests.training.runs import ROOT, SHORT, TINY, assert_close, finish, launch, options, start, weights_of

SHARDED = """
import os
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from modeling_macaron.training.callbacks import clip_gradients

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
whole, sharded = [], []
for seed in (0, 1):
    gradient = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    for parameters, values in ((sharded, distribute_tensor(gradient, mesh, [Shard(0)])), (whole, gradient)):
        parameters.append(torch.nn.Parameter(torch.zeros_like(values)))
        parameters[-1].grad = values
for parameters in (whole, sharded):
    clip_gradients(parameters, 0.5, 1.0)
for parameter, other in zip(whole, sharded, strict=True):
    torch.testing.assert_close(parameter.grad.norm(), torch.tensor(1.0))
    torch.testing.assert_close(other.grad.full_tensor(), parameter.grad)
print("equal", flush=True)
dist.barrier()
os._exit(0)  # threads of the group may crash an interpreter that ends (pytorch#190489)
"""


@pytest.mark.parametrize(
    ("name", "processes", "kind", "machines"),
    [("4gpu", 4, "MULTI_GPU", 1), ("fsdp", 4, "FSDP", 1), ("two_nodes", 8, "MULTI_GPU", 2)],
)
def test_launch_files_are_valid(name, processes, kind, machines):
    config = load_config_from_file(str(ROOT / "configs" / f"accelerate_{name}.yaml"))
    assert (config.num_processes, config.distributed_type.value, config.num_machines) == (processes, kind, machines)
    assert config.mixed_precision == "bf16"
    if kind == "FSDP":
        assert hasattr(modeling_macaron, config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"])


@pytest.mark.slow
def test_shards_of_a_gradient_are_clipped_by_the_norm_of_the_whole(tmp_path):
    (tmp_path / "sharded.py").write_text(SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    done = subprocess.run(
        [*command, str(tmp_path / "sharded.py")], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("equal") == 2, done.stderr[-3000:]


def start_with(file, rank, words, port, script=ROOT / "scripts" / "train.py"):
    """Start one of two processes, or both, with a launch file."""
    launcher = options(
        config_file=ROOT / "configs" / file, num_processes=2, machine_rank=rank, mixed_precision="no",
        main_process_port=port,
    )  # fmt: skip
    return start(launcher, script, ["--use_cpu", "true", *words])


@pytest.mark.slow
def test_two_nodes_train_like_one_process(prepared, tmp_path):
    """Each node has one process here. With GPUs, the launch files start four per node."""
    words = [*TINY, *SHORT, *options(dataset=prepared, hidden_dropout=0.0)]
    finish(launch([*words, "--output_dir", tmp_path / "one"]))
    port = free_port()
    there = [*words, "--output_dir", tmp_path / "two"]
    for node in [start_with("accelerate_two_nodes.yaml", rank, there, port) for rank in (0, 1)]:
        finish(node)
    assert (tmp_path / "two/checkpoint-12/rng_state_1.pth").is_file()
    assert_close(tmp_path / "two" / "checkpoint-12", tmp_path / "one" / "checkpoint-12", rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_sharded_training_equals_one_process_and_resumes(prepared, tmp_path):
    clipped = options(clip_grad_value=0.5, clip_tensor_norm=1.0)  # a tensor's norm is over all its shards
    words = [*TINY, *SHORT, *options(dataset=prepared, hidden_dropout=0.0), *clipped]
    one, run = tmp_path / "one", tmp_path / "sharded"
    finish(launch([*words, "--output_dir", one]))
    there = ["accelerate_fsdp.yaml", 0, [*words, *options(output_dir=run, resume_from_checkpoint="auto")], "0"]
    sharded_train = Path(__file__).with_name("train_sharded.py")
    finish(start_with(*there, sharded_train))
    assert (run / "checkpoint-12/pytorch_model_fsdp.bin").is_file()
    for rank in (0, 1):  # the launcher stops the main process if another fails, even at its end
        assert (run / f"end_{rank}.txt").read_text() == "final written"
    assert_close(run / "checkpoint-12", one / "checkpoint-12", rtol=1e-3, atol=1e-4)
    for part in ("checkpoint-12", "final"):  # the code and the config too, so that others can load it
        names = [{path.name for path in (folder / part).glob("*.py")} for folder in (one, run)]
        assert names[0] == names[1] and "modeling_macaron.py" in names[0]
        configs = [json.loads((folder / part / "config.json").read_text()) for folder in (one, run)]
        quantiles = [config.pop("interval_quantiles", None) for config in configs]
        assert configs[0] == configs[1] and (quantiles[1] or {}) == pytest.approx(quantiles[0] or {}, rel=1e-3)
    undisturbed = (run / "checkpoint-12").rename(tmp_path / "undisturbed")
    shutil.rmtree(run / "final")
    finish(start_with(*there, sharded_train))
    assert_close(run / "checkpoint-12", undisturbed)
    first, *_ = json.loads((run / "checkpoint-12/trainer_state.json").read_text())["log_history"]
    assert first["step"] == 2  # it continued from the earlier checkpoint, with its history
    model = MacaronForExpressionPrediction.from_pretrained(run / "final")
    best = json.loads((run / "final/training.json").read_text())["best_step"]
    for name, values in weights_of(run / f"checkpoint-{best}").items():
        assert torch.equal(model.state_dict()[name], values), name
