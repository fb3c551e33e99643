"""More machines: accelerate's launch files, two nodes of one process each, and the model in shards."""

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
from torch.distributed.fsdp import fully_shard
from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.training.callbacks import clip_gradients

def make():
    torch.manual_seed(0)
    return MacaronForExpressionPrediction(MacaronConfig(
        strand_length=20, hidden_size=16, head_dim=8, num_attention_heads=2, num_hidden_layers=3, intermediate_size=16,
        conv_kernel_size=3, num_expression_positions=4, hidden_dropout=0.0))

dist.init_process_group("gloo")
rank, processes = dist.get_rank(), dist.get_world_size()
mesh = init_device_mesh("cpu", (processes,))
ids = torch.randint(0, 4, (8, 40), generator=torch.Generator().manual_seed(1))
labels = torch.linspace(-1, 1, 8)
whole, sharded = make(), make()
layers = [module for module in sharded.modules() if type(module).__name__ in sharded._no_split_modules]
assert len(layers) == 3
for layer in layers:
    fully_shard(layer, mesh=mesh)
fully_shard(sharded, mesh=mesh)
for parameter in sharded.parameters():
    rows = -(-parameter.shape[0] // processes)
    assert parameter.to_local().numel() <= rows * parameter.numel() // parameter.shape[0]
whole(ids, labels=labels).loss.backward()
mine = slice(rank * 4, rank * 4 + 4)
sharded(ids[mine], labels=labels[mine]).loss.backward()
def compare():
    for (name, parameter), other in zip(whole.named_parameters(), sharded.parameters(), strict=True):
        if parameter.grad is None:
            assert other.grad is None and name.startswith("nucleotide_head")
            continue
        torch.testing.assert_close(other.grad.full_tensor(), parameter.grad, rtol=1e-4, atol=1e-6, msg=name)

compare()
norms = [parameter.grad.norm().item() for parameter in whole.parameters() if parameter.grad is not None]
assert max(norms) > 0.02  # so that both ways of clipping have an effect
for model in (whole, sharded):
    clip_gradients(model.parameters(), 0.01, 0.02)
compare()
print("equal", flush=True)
dist.barrier()
os._exit(0)  # threads of FSDP's group may crash an interpreter that ends (pytorch#190489)
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


def test_sharded_model_has_the_gradients_of_the_whole_and_clips_them_equally(tmp_path):
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
def test_two_nodes_train_as_one_process_does(prepared, tmp_path):
    """Each node has one process here; with GPUs the launch files start four on each."""
    words = [*TINY, *SHORT, *options(dataset=prepared, hidden_dropout=0.0)]
    finish(launch([*words, "--output_dir", tmp_path / "one"]))
    port = free_port()
    there = [*words, "--output_dir", tmp_path / "two"]
    for node in [start_with("accelerate_two_nodes.yaml", rank, there, port) for rank in (0, 1)]:
        finish(node)
    assert (tmp_path / "two/checkpoint-12/rng_state_1.pth").is_file()
    assert_close(tmp_path / "two" / "checkpoint-12", tmp_path / "one" / "checkpoint-12", rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_sharded_training_is_that_of_one_process_and_resumes(prepared, tmp_path):
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
