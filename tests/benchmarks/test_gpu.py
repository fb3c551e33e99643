"""The GPU benchmark at a tiny size on the CPU: arithmetic, notes instead of failures, and the written results."""

import json

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_parts, gpu_setup
from benchmarks.gpu_setup import make_model, random_batch

TINY = ["--device", "cpu", "--size", "tiny", "--compile_backend", "eager"]
FORM = {"task": "train", "projections": "merged", "attention": "eager", "mode": "eager", "batch_size": 2}


def run_main(output, *options):
    """Exit code, and the written results."""
    code = gpu.main([*TINY, "--output", str(output), *options])
    return code, json.loads(output.read_text())


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All parts, not compiled."""
    return run_main(tmp_path_factory.mktemp("gpu") / "results" / "all.json", "--modes", "eager", "--batch_sizes", "2")


@pytest.fixture
def run(tmp_path):
    return gpu.make_run(gpu.build_parser().parse_args([*TINY, "--output", str(tmp_path / "out.json")]))


@pytest.mark.parametrize(
    ("projections", "task", "gflop"),
    [
        ("separate", "whole", 25.4),
        ("separate", "train", 76.3),
        ("separate", "expression", 22.4),
        ("merged", "whole", 17.7),
        ("merged", "train", 53.0),
        ("merged", "expression", 14.6),
    ],
)
def test_flops_are_those_of_the_reference(projections, task, gflop):
    assert gpu_setup.count_flops("paper", projections, task) / 1e9 == pytest.approx(gflop, abs=0.06)


@pytest.mark.parametrize("projections", ["separate", "merged"])
def test_a_backward_costs_twice_the_forward(projections):
    forward = gpu_setup.count_flops("paper", projections, "whole")
    without = 2 * (200 * 60 + 32) * 512  # no gradients of the one-hot bases and of the zeros in front of them
    assert gpu_setup.count_flops("paper", projections, "train") == 3 * forward - without


@pytest.mark.slow
def test_every_part_is_written(everything):
    code, report = everything
    assert code == 0 and report["kind"] == "gpu" and report["machine"]["size"] == "tiny"
    assert set(report["tables"]) == {"train", "inference", "groups", "kernels", "variants"}
    names = [figure["name"] for figure in report["figures"]]
    for projections in ("plain", "merged"):
        for part in ("training", "inference, all outputs", "inference, expression only", "trainer"):
            assert {f"{part}: {projections}, batch 4", f"{part}: {projections}, batch 4, share of the peak"} <= {*names}
    assert len(names) == len(set(names)) and all(figure["value"] > 0 for figure in report["figures"])
    assert len(report["checks"]) == 2 * 2 * 2 * 4 + 4


@pytest.mark.slow
def test_rates_and_their_share_of_the_peak(everything):
    report = everything[1]
    peak = next(figure["value"] for figure in report["figures"] if figure["name"].startswith("peak"))
    forms = [
        (row["task"], row["projections"], row["attention"], row["batch_size"]) for row in report["tables"]["train"]
    ]
    assert len(forms) == len(set(forms)) == 6
    for row in report["tables"]["train"] + report["tables"]["inference"]:
        flops = gpu_setup.count_flops("tiny", row["projections"], row["task"])
        assert row["note"] == "" and row["sequences_per_s"] == pytest.approx(1e3 * row["batch_size"] / row["ms"])
        assert row["mfu"] == pytest.approx(flops * row["sequences_per_s"] / (peak * 1e12))


@pytest.mark.slow
def test_groups_of_the_step_are_timed(everything):
    for projections in ("separate", "merged"):
        rows = [row for row in everything[1]["tables"]["groups"] if row["projections"] == projections]
        groups = {row["group"]: row for row in rows}
        parts = "attention", "feed-forward", "convolution", "block norm", "optimizer", "other", "whole step"
        assert set(groups) == set(parts) and groups["whole step"]["share"] == 1
        assert all(row["ms"] > 0 for name, row in groups.items() if name != "other")


@pytest.mark.slow
def test_variants_are_timed(everything):
    rows = everything[1]["tables"]["variants"]
    assert {row["variant"] for row in rows} == set(gpu_parts.VARIANTS)
    assert all(row["ms"] > 0 and not row["note"] for row in rows)


def test_convolution_by_shifts_computes_the_same():
    models = [make_model("tiny", "separate", "eager", "cpu").double().eval() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    gpu_parts.shift_convolutions(models[1])
    batch = random_batch(models[0], 3)
    for model in models:
        model(**batch).loss.backward()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-9, atol=1e-12)


def test_compiled_forms_are_checked_and_timed(tmp_path):
    code, report = run_main(tmp_path / "out.json", "--only", "check", "train", "--projections", "merged")
    assert code == 0
    assert any("bf16 autocast, compiled: gradients" in check["name"] for check in report["checks"])
    (compiled,) = [row for row in report["tables"]["train"] if row["mode"] == "compiled"]
    assert compiled["ms"] > 0


def test_wrong_attention_fails_the_check(tmp_path, monkeypatch):
    (attention,) = {
        type(make_model("tiny", name, "eager", "cpu").macaron.layers[0].self_attn).__mro__[1] for name in gpu.LABELS
    }
    attend = attention.attend

    def wrong(self, query, key, value, **kwargs):
        return attend(self, query * (1.01 if query.dtype == torch.float32 else 1), key, value, **kwargs)

    monkeypatch.setattr(attention, "attend", wrong)
    code, report = run_main(tmp_path / "out.json", "--only", "check", "--modes", "eager")
    failing = {check["name"] for check in report["checks"] if not check["holds"]}
    assert code == 1
    assert {"check: plain, sdpa, float32, eager: gradients", "check: merged, eager, float32, eager: logits"} <= failing


def test_checkpoint_that_differs_between_devices_fails(run, monkeypatch):
    values = iter([1.0, 1.01, 1.0, 1.0])
    monkeypatch.setattr(gpu_parts, "predict", lambda *_, **__: np.full(5, next(values)))
    gpu_parts._check_checkpoint(run)
    held = {check.name: check.holds for check in run.results.checks}
    assert not held.pop("check: checkpoint, predictions, float32") and all(held.values())


def test_values_that_are_not_finite_fail_a_check_and_can_be_written(run):
    error = gpu_parts.relative_error(torch.tensor([float("nan"), 1.0]), torch.ones(2))
    gradients = gpu_parts.gradient_error({"w": torch.tensor([float("inf")])}, {"w": torch.ones(1).double()})
    for value in (error, gradients):
        run.results.check("check: nan", value, 1.0)
    assert not any(check.holds for check in run.results.checks)
    run.save()


def test_gradient_error_sees_the_worst_tensor():
    reference = {"large": torch.full((100,), 10.0).double(), "small": torch.ones(2).double(), "none": torch.zeros(3)}
    gradients = {**reference, "small": torch.tensor([1.0, 1.5])}
    assert gpu_parts.gradient_error(reference, reference) == 0
    assert 0.3 < gpu_parts.gradient_error(gradients, reference) < 0.36


def test_out_of_memory_becomes_a_note(run, monkeypatch):
    def exhaust(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(gpu_parts.TrainingStep, "__call__", exhaust)
    row = gpu_parts.measure(run, "train", **FORM)
    assert row["note"].startswith("CUDA out of memory") and "more" not in row["note"]
    assert row["ms"] is None and row["mfu"] is None
    assert json.loads(run.output.read_text())["tables"]["train"] == [row]


def test_nothing_begins_when_the_time_is_up(run):
    run.deadline = 0.0
    row = gpu_parts.measure(run, "train", **FORM)
    assert row["ms"] is None and row["note"] == "the time was up"


def test_infinite_output_is_noted(run, monkeypatch):
    monkeypatch.setattr(gpu_parts, "make_step", lambda *_: lambda: torch.tensor(float("inf")))
    assert gpu_parts.measure(run, "train", **FORM)["note"] == "the output is not finite"


def test_training_step_learns_as_the_recipe_says():
    model = make_model("tiny", "separate", "eager", "cpu")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step = gpu_setup.TrainingStep(model)
    loss = step(random_batch(model, 2))
    assert loss.dtype == torch.float32 and not loss.requires_grad
    group = step.optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["fused"]) == ((0.9, 0.98), 1e-9, True)
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert sum(moved) >= len(moved) - 3  # the pseudo-expression's weight and the keys' biases have no gradient
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_failed_part_leaves_the_others(tmp_path, monkeypatch):
    def fail(run):
        raise TypeError("make_trainer() got an unexpected keyword argument")

    monkeypatch.setitem(gpu.PARTS, "trainer", fail)
    code, report = run_main(tmp_path / "out.json", "--only", "peak", "trainer")
    assert code == 1 and report["figures"][0]["value"] > 0
    assert report["figures"][-1]["value"] is None and "unexpected keyword" in report["figures"][-1]["note"]


def test_a_trial_does_not_replace_results_of_the_machine():
    parser = gpu.build_parser()
    assert gpu.make_run(parser.parse_args(["--device", "cpu"])).output is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "gpu7"], "--device gpu7 cannot be used"),
        (["--device", "meta"], "--device meta"),
        (["--compile_backend", "magic"], "--compile_backend magic"),
        (["--output", "results.txt"], "argument --output"),
        (["--only", "all"], "argument --only"),
    ],
)
def test_bad_options_are_rejected(options, message, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--size", "tiny", *options])
    assert message in capsys.readouterr().err.splitlines()[-1]
