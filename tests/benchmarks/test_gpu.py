"""The GPU benchmark at a tiny size on the CPU."""

import json

import pytest
import torch

from benchmarks import gpu, gpu_check
from benchmarks.figures import Results

TINY = ["--device", "cpu", "--size", "tiny", "--compile_backend", "eager"]


def run_main(output, *options):
    """Run the benchmark and return its exit code and results."""
    code = gpu.main([*TINY, "--output", str(output), *options])
    return code, json.loads(output.read_text())


@pytest.fixture
def uncompiled(monkeypatch):
    """Disable compilation, which takes longest."""
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)


@pytest.fixture
def run():
    return gpu.Run(Results("gpu", {}), torch.device("cpu"), "tiny", "eager")


@pytest.mark.parametrize(("projections", "task", "gflop"), [
    ("separate", "whole", 25.4), ("separate", "train", 76.3), ("separate", "expression", 22.4),
    ("merged", "whole", 17.7), ("merged", "train", 53.0), ("merged", "expression", 14.6),
])  # fmt: skip
def test_flops_equal_the_reference(projections, task, gflop):
    assert gpu.count_flops("paper", projections, task) / 1e9 == pytest.approx(gflop, abs=0.06)


@pytest.mark.slow
def test_every_part_is_written(tmp_path, uncompiled):
    code, report = run_main(tmp_path / "results" / "all.json")
    assert code == 0 and report["kind"] == "gpu" and report["machine"]["size"] == "tiny"
    assert len(report["checks"]) == 2 * 3 * 2 * 4 + 4
    figures = {figure["name"]: figure["value"] for figure in report["figures"]}
    for projections in ("plain", "merged"):
        for part in ("training", "inference, all outputs", "inference, expression only", "trainer"):
            name = f"{part}: {projections}, batch 4"
            assert {name, f"{name}, share of the peak"} <= set(figures)
    assert len(figures) == len(report["figures"]) and all(value > 0 for value in figures.values())

    tables = report["tables"]
    assert set(tables) == {"train", "inference", "groups", "kernels"} and len(tables["train"]) == 2 * 3
    for row in tables["train"] + tables["inference"]:
        flops = gpu.count_flops("tiny", row["projections"], row["task"])
        assert row["note"] == "" and row["sequences_per_s"] == pytest.approx(1e3 * row["batch_size"] / row["ms"])
        share = flops * row["sequences_per_s"] / (figures["peak: bf16 matrix product of 64 x 64"] * 1e12)
        assert row["mfu"] == pytest.approx(share)
    parts = {"attention", "feed-forward", "convolution", "block norm", "optimizer", "other", "whole step"}
    assert {row["group"] for row in tables["groups"]} == parts and all(row["ms"] > 0 for row in tables["kernels"])


def test_wrong_attention_fails_the_check(tmp_path, monkeypatch, uncompiled):
    attention = type(gpu.make_model("tiny").macaron.layers[0].self_attn).__mro__[1]
    attend = attention.attend

    def wrong(self, query, key, value, **kwargs):
        return attend(self, query * (1.01 if query.dtype == torch.float32 else 1), key, value, **kwargs)

    monkeypatch.setattr(attention, "attend", wrong)
    code, report = run_main(tmp_path / "out.json", "--only", "check")
    failing = {check["name"] for check in report["checks"] if not check["holds"]}
    assert code == 1
    assert {"check: plain, sdpa, float32: gradients", "check: merged, eager, float32, compiled: logits"} <= failing


def test_gradient_error_sees_the_worst_tensor():
    reference = {"large": torch.full((100,), 10.0).double(), "small": torch.ones(2).double(), "none": torch.zeros(3)}
    assert gpu_check.gradient_error(reference, reference) == 0
    assert 0.3 < gpu_check.gradient_error({**reference, "small": torch.tensor([1.0, 1.5])}, reference) < 0.36


def test_out_of_memory_becomes_a_note(run, monkeypatch):
    def exhaust(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(gpu.TrainingStep, "__call__", exhaust)
    row = gpu.measure(run, "train", "train", "merged", "eager", False)
    assert row["note"].startswith("CUDA out of memory") and "more" not in row["note"] and row["ms"] is None


def test_compiled_form_is_timed(run):
    row = gpu.measure(run, "train", "train", "merged", "eager", True)
    assert row["compiled"] and row["ms"] > 0 and not row["note"]
