"""The GPU benchmark at a tiny size on the CPU: arithmetic, notes instead of failures, and what is written."""

import json

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_checks, gpu_setup, gpu_timing, gpu_verbs, gpu_workflows
from benchmarks.figures import Results
from benchmarks.gpu_setup import make_model, random_batch
from benchmarks.gpu_variants import VARIANTS, shift_convolutions
from modeling_macaron.attention_macaron import MacaronAttentionBase

TINY = ["--device", "cpu", "--size", "tiny", "--compile_backend", "eager"]


def run_main(output, *options):
    """Exit code and what was written."""
    code = gpu.main([*TINY, "--output", str(output), *options])
    return code, json.loads(output.read_text())


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All parts, as they are and not compiled."""
    output = tmp_path_factory.mktemp("gpu") / "results" / "all.json"
    options = "--modes", "eager", "--attention", "eager", "flash", "efficient", "--bulk_rows", "150"
    return run_main(output, *options)


@pytest.fixture
def run(tmp_path):
    """Return a run whose measurements may be called one by one."""
    options = gpu.make_parser().parse_args([*TINY, "--output", str(tmp_path / "out.json"), "--attention", "eager"])
    return gpu.make_run(options)


@pytest.fixture
def form():
    return gpu_timing.Form("train", "merged", "eager", False, 2)


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
    unwanted = 2 * (200 * 60 + 32) * 512  # gradients of the one-hot letters and of the zeros in front of them
    assert gpu_setup.count_flops("paper", projections, "train") == 3 * forward - unwanted


def test_every_part_is_written(everything):
    code, report = everything
    assert code == 0
    named = {entry["name"].split(":")[0] for kind in ("figures", "checks") for entry in report[kind]}
    assert named >= {"check", "peak", "train", "inference", "trainer", "bulk"}
    assert set(report["tables"]) == {"train", "inference", "groups", "profile", "variants", "trainer", "fastest"}
    assert report["kind"] == "gpu"
    assert report["machine"]["size"] == "tiny"
    values = {figure["name"]: figure["value"] for figure in report["figures"]}
    assert values.pop("sharded: training") is None  # needs an accelerator
    assert all(value is not None and value > 0 for name, value in values.items() if "loss" not in name)
    assert all(figure["bar"] is None for figure in report["figures"])  # a CPU has no bars of a GPU


def test_groups_of_the_step_are_timed(everything):
    _, report = everything
    for projections in ("separate", "merged"):
        groups = {row["group"]: row for row in report["tables"]["groups"] if row["projections"] == projections}
        assert set(groups) == {
            *("attention", "feed-forward", "convolution", "block norm", "optimizer", "data", "other", "whole step")
        }
        assert all(row["ms"] > 0 for name, row in groups.items() if name != "other")
        assert groups["whole step"]["share"] == 1


def test_variants_are_timed_and_compute_the_same(everything):
    _, report = everything
    assert {row["variant"] for row in report["tables"]["variants"]} == set(VARIANTS)
    assert all(row["ms"] > 0 and not row["note"] for row in report["tables"]["variants"])
    models = [make_model("tiny", "separate", "eager", "cpu").double().eval() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    shift_convolutions(models[1])
    batch = random_batch(models[0], 3)
    for model in models:
        model(**batch).loss.backward()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-9, atol=1e-12)


def test_every_form_has_a_row(everything):
    rows = everything[1]["tables"]
    assert {(row["task"], row["projections"], row["attention"], row["batch_size"]) for row in rows["inference"]} >= {
        (task, projections, attention, 4)
        for task in ("whole", "expression")
        for projections in ("separate", "merged")
        for attention in ("eager", "flash", "efficient")
    }
    for row in rows["train"] + rows["inference"]:
        refused = row["attention"] == "efficient"  # there is none on a CPU
        assert row["note"].startswith("refused: ") if refused else row["note"] == ""
        assert (row["ms"] is None) == refused
    sweep = {(row["projections"], row["batch_size"]) for row in rows["train"] if not row["note"]}
    assert sweep == {(projections, batch_size) for projections in ("separate", "merged") for batch_size in (2, 4)}


def test_utilization_is_arithmetic_over_peak(everything):
    report = everything[1]
    peak = next(figure["value"] for figure in report["figures"] if figure["name"].startswith("peak"))
    for row in report["tables"]["train"] + report["tables"]["inference"]:
        if row["ms"] is None:
            continue
        flops = gpu_setup.count_flops("tiny", row["projections"], row["task"])
        assert row["sequences_per_s"] == pytest.approx(1e3 * row["batch_size"] / row["ms"])
        assert row["mfu"] == pytest.approx(flops * row["sequences_per_s"] / (peak * 1e12))


def test_fastest_attention_leads_its_table(everything):
    tables = everything[1]["tables"]
    assert len(tables["fastest"]) == 6
    for best in tables["fastest"]:
        known = "task", "projections", "compiled"
        rates = [
            row["sequences_per_s"]
            for row in tables["train"] + tables["inference"]
            if row["ms"] and row["batch_size"] == 4 and all(row[name] == best[name] for name in known)
        ]
        assert best["sequences_per_s"] == max(rates)
        assert best["times_the_next"] == pytest.approx(max(rates) / min(rates))


def test_trainer_is_measured_beside_a_bare_loop(everything):
    report = everything[1]
    rows = {row["projections"]: row for row in report["tables"]["trainer"]}
    values = {figure["name"]: figure["value"] for figure in report["figures"]}
    for label, row in zip(("plain", "merged"), (rows["separate"], rows["merged"]), strict=True):
        assert values[f"trainer: {label}, batch 4"] == row["trainer"]
        lost = values[f"trainer: {label}, loss against the bare loop"]
        assert lost == pytest.approx(100 * (1 - row["trainer"] / row["bare_loop"]))
    ratio = rows["merged"]["trainer"] / rows["separate"]["trainer"]
    assert values["trainer: merged over plain"] == pytest.approx(ratio)


def test_compiled_forms_are_checked_and_timed(tmp_path):
    options = "--projections", "merged", "--attention", "eager", "flash", "--batch_sizes", "4"
    code, report = run_main(tmp_path / "out.json", "--only", "check", "train", *options)
    assert code == 0
    assert any("compiled against not: gradients" in check["name"] for check in report["checks"])
    compiled = [row for row in report["tables"]["train"] if row["compiled"]]
    assert compiled and all(row["ms"] for row in compiled)


def test_slow_attention_is_not_compiled(run):
    run.attentions = ("eager", "flash", "math")
    for attention, rate in (("eager", 100.0), ("flash", 95.0), ("math", 40.0)):
        row = gpu_timing.Form("train", "merged", attention, False, 4)._asdict()
        run.results.row("train", **row, ms=1.0, sequences_per_s=rate)
    assert gpu_timing._attentions(run, "train", "merged", "compiled") == ["eager", "flash"]
    assert gpu_timing._attentions(run, "train", "merged", "eager") == ["eager", "flash", "math"]


def test_wrong_attention_fails_the_check(tmp_path, monkeypatch):
    attend = MacaronAttentionBase.attend

    def wrong(self, query, key, value, **kwargs):
        return attend(self, query * (1.01 if query.dtype == torch.float32 else 1), key, value, **kwargs)

    monkeypatch.setattr(MacaronAttentionBase, "attend", wrong)
    code, report = run_main(tmp_path / "out.json", "--only", "check", "--modes", "eager")
    assert code == 1
    failing = {check["name"] for check in report["checks"] if not check["holds"]}
    assert {"check: plain, sdpa, float32: gradients", "check: merged, eager, float32: logits"} <= failing
    assert not any("float64" in name for name in failing)


def test_nan_fails_a_check_and_can_be_written(run):
    error = gpu_checks.relative_error(torch.tensor([float("nan"), 1.0]), torch.ones(2))
    gradients = gpu_checks.gradient_error({"w": torch.tensor([float("inf")])}, {"w": torch.ones(1).double()})
    for value in (error, gradients):
        assert not run.results.check("check: nan", value, 1.0).holds
    run.save()


def test_gradient_error_sees_the_worst_tensor():
    reference = {"large": torch.full((100,), 10.0).double(), "small": torch.ones(2).double(), "none": torch.zeros(3)}
    gradients = {**reference, "small": torch.tensor([1.0, 1.5])}
    assert gpu_checks.gradient_error(reference, reference) == 0
    assert 0.3 < gpu_checks.gradient_error(gradients, reference) < 0.36


def test_out_of_memory_becomes_a_row(run, form, monkeypatch):
    def exhaust(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(gpu_timing.TrainingStep, "__call__", exhaust)
    row = gpu_timing.measure(run, form)
    assert row["note"] == "out of memory" and row["ms"] is None and row["mfu"] is None
    assert json.loads(run.output.read_text())["tables"]["train"] == [row]


def test_larger_batches_are_not_tried_after_memory_ran_out(run, monkeypatch):
    tried = []

    def pretend(run, form):
        tried.append(form.batch_size)
        if form.batch_size > 8:
            raise torch.cuda.OutOfMemoryError
        return {"sequences_per_s": 1.0, "ms": 1.0, "note": ""}

    monkeypatch.setattr(gpu_timing, "_time_form", pretend)
    run.projections, run.modes, run.batch_sizes = ("merged",), ("eager",), (16, 2, 4, 8, 32)
    assert gpu_timing.survey(run, "train")["merged"]["batch_size"] == 4
    assert tried == [4, 2, 8, 16]


def test_nothing_begins_when_the_time_is_up(run, form):
    run.deadline = 0.0
    row = gpu_timing.measure(run, form)
    assert row["ms"] is None and "time was up" in row["note"]


def test_refusal_tells_the_reason_of_the_warning():
    hint = "Flash attention requires head dims of at most 256. (Triggered internally at sdp_utils.cpp:1)"
    note = gpu_timing.explain(RuntimeError("No available kernel. Aborting execution."), [hint, hint], "flash")
    assert (
        note == "refused: No available kernel. Aborting execution.; Flash attention requires head dims of at most 256."
    )
    assert gpu_timing.explain(RuntimeError("broken\nmore"), [], "eager") == "failed: broken"
    assert gpu_timing.explain(RuntimeError("CUDA error: out of memory"), [], "eager") == "out of memory"


def test_infinite_output_is_noted(run, form, monkeypatch):
    monkeypatch.setattr(gpu_timing, "make_step", lambda run, form: lambda: torch.tensor(float("inf")))
    assert gpu_timing.measure(run, form)["note"] == "the output is not finite"


def test_training_step_learns_as_the_recipe_says(run):
    model = gpu_setup.make_model("tiny", "separate", "eager", "cpu")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step = gpu_setup.TrainingStep(model)
    loss = step(gpu_setup.random_batch(model, 2))
    assert loss.dtype == torch.float32 and not loss.requires_grad
    group = step.optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["fused"]) == ((0.9, 0.98), 1e-9, True)
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert sum(moved) >= len(moved) - 3  # the pseudo-expression's weight and the keys' biases have no gradient
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_failed_part_leaves_the_others(tmp_path, monkeypatch):
    def fail(run):
        raise TypeError("predict_file() got an unexpected keyword argument 'merged'")

    monkeypatch.setitem(gpu.PARTS, "bulk", fail)
    code, report = run_main(tmp_path / "out.json", "--only", "peak", "bulk")
    assert code == 1
    assert report["figures"][0]["value"] > 0
    assert report["figures"][-1]["value"] is None and "unexpected keyword" in report["figures"][-1]["note"]


def test_trainer_without_datasets_is_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_workflows, "find_spec", lambda name: None)
    code, report = run_main(tmp_path / "out.json", "--only", "trainer")
    figures = [figure for figure in report["figures"] if figure["name"].startswith("trainer")]
    assert code == 0
    assert len(figures) == 7
    assert all(figure["value"] is None and "datasets" in figure["note"] for figure in figures)


def test_trainer_out_of_memory_is_noted(run, monkeypatch):
    def exhaust(*args):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(gpu_workflows, "prepare_data", lambda *args: None)
    monkeypatch.setattr(gpu_workflows, "time_trainer", exhaust)
    gpu_workflows.measure_trainer(run)
    assert all(figure.value is None and figure.note == "out of memory" for figure in run.results.figures)


def test_keep_adds_to_earlier_parts(tmp_path, capsys):
    output = tmp_path / "out.json"
    small = "--projections", "merged", "--modes", "eager", "--attention", "eager", "--batch_sizes", "4"
    run_main(output, "--only", "train", *small)
    _, report = run_main(output, "--only", "inference", "--keep", *small)
    assert {"train", "inference"} <= set(report["tables"])
    assert sum(figure["name"].startswith("peak") for figure in report["figures"]) == 1
    _, report = run_main(output, "--only", "inference", "--keep", *small)
    names = [figure["name"] for figure in report["figures"]]
    assert len(names) == len(set(names))
    small = "--projections", "separate", *small[2:]
    _, report = run_main(output, "--only", "inference", "--keep", *small)
    assert {row["projections"] for row in report["tables"]["inference"]} == {"separate", "merged"}
    assert {row["projections"] for row in report["tables"]["train"]} == {"merged"}
    names = [figure["name"] for figure in report["figures"] if figure["name"].startswith("inference")]
    assert len(names) == len(set(names)) == 4
    _, report = run_main(output, "--only", "peak")
    assert report["tables"] == {}
    output.write_text(json.dumps({**report, "machine": {"name": "another", "size": "tiny"}}))
    with pytest.raises(SystemExit, match="measured on another at size tiny"):
        gpu.main([*TINY, "--output", str(output), "--only", "peak", "--keep"])


def test_bars_are_those_of_the_paper_on_a_gpu(tmp_path):
    def bar(device, size):
        made = gpu_setup.Run(
            Results("gpu", {}), tmp_path, torch.device(device), size, (), 1, (), (), (), "eager", 1, peak=790.0
        )
        return made, made.bar(5200)

    made, value = bar("cuda", "paper")
    assert value == 5200
    assert made.utilization("separate", "train", 5200.0) == pytest.approx(0.5, abs=0.01)
    assert bar("cuda", "tiny")[1] is None
    assert bar("cpu", "paper")[1] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "gpu7"], "error: --device gpu7 cannot be used"),
        (["--device", "meta"], "error: --device meta"),
        (["--compile_backend", "magic"], "error: --compile_backend magic"),
        (["--output", "results.txt"], "error: --output results.txt"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--size", "tiny", "--only", "peak", *options])
    assert str(stopped.value).startswith(message)
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    "options", [["--steps", "0"], ["--batch_sizes", "-1"], ["--only", "all"], ["--bulk_rows", "x"]]
)
def test_impossible_numbers_are_refused(options, capsys):
    with pytest.raises(SystemExit):
        gpu.main([*TINY, *options])
    assert f"argument {options[0]}" in capsys.readouterr().err


def test_a_trial_does_not_replace_results_of_the_machine():
    machine = {"name": "NVIDIA H200", "size": "paper"}
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    real = gpu.default_output(machine, cuda)
    assert real.name == "nvidia-h200.json"
    assert len({real, gpu.default_output({**machine, "size": "tiny"}, cuda), gpu.default_output(machine, cpu)}) == 3


def test_verbs_that_differ_between_devices_fail(run, monkeypatch):
    values = iter([1.0, 1.0, 1.0, 1.01])
    monkeypatch.setattr(gpu_verbs, "VERBS", dict.fromkeys(["same", "other"], lambda *_: np.full(3, next(values))))
    gpu_verbs.check_verbs(run)
    held = {check.name: check.holds for check in run.results.checks}
    assert held["verbs: same, against the CPU"] and not held["verbs: other, against the CPU"]
