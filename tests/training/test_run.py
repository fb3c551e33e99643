"""Training runs: options, processes, interruption and the final folder."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from safetensors.torch import save_file

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.hub import check_hub_folder
from modeling_macaron.training.checkpoints import is_complete
from modeling_macaron.training.dataset import PreparedData
from modeling_macaron.training.model_card import public_name
from modeling_macaron.training.run import build_model
from scripts.train import main
from tests.batches import random_ids
from tests.training import runs
from tests.training.runs import ONE_STEP, RECIPE, ROOT, SHORT, TINY, assert_close, finish, launch, logged, options, run


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    """An undisturbed run of 12 steps on one process, with dropout."""
    output_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    output = finish(launch([*options(dataset=prepared, output_dir=output_dir, hidden_dropout=0.1), *TINY, *SHORT]))
    (output_dir / "output.txt").write_text(output)
    return output_dir


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


def test_final_folder_is_complete_and_its_card_has_the_figures_of_the_run(finished, prepared):
    final, data = finished / "final", PreparedData(prepared)
    check_hub_folder(final)
    assert (final / "model.safetensors").stat().st_mode == (final / "config.json").stat().st_mode
    assert (final / "learning_curve.png").stat().st_size > 5000
    model = MacaronForExpressionPrediction.from_pretrained(final)
    assert model.config.expression_mean == pytest.approx(data.expression_mean)
    assert model.config.expression_std == pytest.approx(data.expression_std)
    assert (model.config.strand_length, model.config.hidden_dropout) == (80, 0.1)

    facts, results = (json.loads(path.read_text()) for path in (final / "training.json", finished / "all_results.json"))
    r = results["eval_pearson_r"]
    assert (facts["metrics"]["pearson_r"], facts["parameters"]) == (r, model.num_parameters())
    assert (facts["steps"], facts["training_rows"], facts["hidden_dropout"]) == (12, len(data.train), 0.1)
    card = (final / "README.md").read_text()
    for text in (
        f"{r:.4f}", f"{results['eval_expression_loss']:.4f}", "| Table | simulate |",
        "20 nt in common on either strand, are on one side of the split",
    ):  # fmt: skip
        assert text in card
    assert str(finished) not in card
    measured = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"][0]["metrics"]
    assert measured[0]["value"] == pytest.approx(r)

    summary, ridge, place = (finished / "output.txt").read_text().splitlines()[-3:]
    assert summary.startswith("12 steps in ")
    assert f"{len(data.validation):,} validation rows Pearson r {r:.3f}" in summary
    assert ridge.startswith("Ridge regression on k-mer counts of the same rows: Pearson r ")
    assert str(final) in place


def test_final_model_is_the_best_on_validation(finished):
    state = json.loads((finished / "checkpoint-12" / "trainer_state.json").read_text())
    measured = {e["step"]: e["eval_pearson_r"] for e in state["log_history"] if "eval_pearson_r" in e}
    assert state["best_global_step"] == max(measured, key=measured.get)
    results = json.loads((finished / "all_results.json").read_text())
    assert results["eval_pearson_r"] == pytest.approx(max(measured.values()), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("reconstruction_weight", [1.0, 0.0])
def test_two_processes_train_like_one(prepared, tmp_path, reconstruction_weight):
    words = [*TINY, *SHORT, *options(dataset=prepared, reconstruction_weight=reconstruction_weight)]
    for name, processes in (("one", 1), ("two", 2)):
        output = finish(launch([*words, "--output_dir", tmp_path / name], processes))
        assert "find_unused_parameters" not in output
    one, two = (tmp_path / name / "checkpoint-12" for name in ("one", "two"))
    assert {path.name for path in two.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    reconstruction = ["reconstruction_loss"] if reconstruction_weight else []
    for name in ("loss", "expression_loss", *reconstruction, "eval_loss", "eval_expression_loss"):
        assert logged(two, name) and logged(two, name) == pytest.approx(logged(one, name), rel=1e-3), name
    assert_close(two, one, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_resumed_run_ends_with_the_same_weights_after_sigkill(finished, prepared, tmp_path):
    words = [*options(dataset=prepared, output_dir=tmp_path, hidden_dropout=0.1), *TINY, *SHORT]
    process = launch(words)
    deadline = time.monotonic() + 200
    while not (tmp_path / "checkpoint-8" / "trainer_state.json").exists():
        assert time.monotonic() < deadline and process.poll() is None, "no checkpoint was written"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for name in ("final", "checkpoint-12"):  # if the run was quicker than the signal
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    finish(launch([*words, "--resume_from_checkpoint", "auto"]))
    assert_close(tmp_path / "checkpoint-12", finished / "checkpoint-12")
    for name in ("loss", "expression_loss", "reconstruction_loss", "eval_pearson_r"):
        expected = logged(finished / "checkpoint-12", name)[-1]
        assert logged(tmp_path / "checkpoint-12", name)[-1] == pytest.approx(expected, rel=1e-6), name


@pytest.mark.slow
def test_checkpoint_of_a_running_training_loads_without_this_package(finished, tmp_path):
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('modeling_macaron', 'tokenization'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from transformers import pipeline\n"
        f"predict = pipeline('promoter-expression', model={str(finished / 'checkpoint-8')!r}, trust_remote_code=True)\n"
        "print('expression', predict('ACGT' * 20)['expression'])\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and "expression" in result.stdout, result.stderr[-2000:]


def test_foreign_files_are_not_replaced(copied, prepared, tmp_path):
    final = copied / "final"
    with pytest.raises(FileExistsError, match="--resume_from_checkpoint auto"):
        run(prepared, copied, *SHORT)
    (final / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        run(prepared, copied, *SHORT, "--resume_from_checkpoint", "auto")
    assert (final / "notes.txt").read_text() == "mine"
    final = final.rename(tmp_path / "final")
    (final / "notes.txt").unlink()
    before = (final / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="is also an input"):
        run(prepared, tmp_path, "--init_from", final, *ONE_STEP)
    assert (final / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--hidden_size", "32"], "model setting hidden_size: 16, not 32"),
        (["--expression_bins", "8"], "model setting expression_bins: 0, not 8"),
        (["--ema_decay", "0.9"], r"model setting ema_decay: None, not 0\.9"),
        (None, "data setting train: .*, not another"),
    ],
)
def test_resuming_with_other_settings_is_rejected(copied, prepared, tmp_path, change, message):
    data = prepared
    if change is None:
        data = shutil.copytree(prepared, tmp_path / "other")
        report = json.loads((data / "report.json").read_text())
        report["splits"]["train"]["fingerprint"] = "another"
        (data / "report.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match=f"checkpoint-12 was trained with {message}"):
        run(data, copied, *SHORT, "--resume_from_checkpoint", "auto", *(change or []))


def test_resuming_runs_no_pickle(copied, prepared, tmp_path):
    """`training_args.bin` is not read, and the other states are read without code."""
    shutil.rmtree(copied / "checkpoint-12")  # so that steps remain

    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "harm"), "w")

    words = [*SHORT, "--hidden_dropout", "0.1", "--resume_from_checkpoint", "auto"]
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        intact = (copied / "checkpoint-8" / name).read_bytes()
        torch.save(Bomb(), copied / "checkpoint-8" / name)
        if name == "training_args.bin":
            run(prepared, copied, *words)
        else:
            with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights"):
                run(prepared, copied, *words)
        (copied / "checkpoint-8" / name).write_bytes(intact)
        assert not (tmp_path / "harm").exists()


def test_fine_tuning_starts_from_the_weights_of_a_checkpoint(finished, prepared, tmp_path):
    words = [*ONE_STEP, *options(init_from=finished / "final", learning_rate=1e-9, warmup_steps=0)]
    final = run(prepared, tmp_path / "tuned", *words)
    assert_close(final, finished / "final", rtol=0, atol=1e-7)
    facts = json.loads((final / "training.json").read_text())
    assert (facts["started_from"], facts["warmup_steps"]) == ("final", 0)
    card = ModelCard.load(final / "README.md")
    assert "| Started from | final |" in card.text and card.data.base_model is None
    with pytest.raises(ValueError, match="`hidden_size` is 16"):
        run(prepared, tmp_path / "other", *words, "--hidden_size", "32")


def test_card_names_the_hub_model_that_was_fine_tuned(finished, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached = tmp_path / "cache" / "models--me--Qwen2.5-promoter"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(finished / "final", cached / "snapshots" / ("0" * 40))
    final = run(prepared, tmp_path / "tuned", "--init_from", "me/Qwen2.5-promoter", *ONE_STEP)
    card = ModelCard.load(final / "README.md")
    assert "| Started from | me/Qwen2.5-promoter |" in card.text
    assert card.data.base_model == "me/Qwen2.5-promoter"


def test_fine_tuning_uses_the_fields_that_may_change(finished, prepared):
    final, data = str(finished / "final"), PreparedData(prepared)
    arguments, _ = runs.parse(prepared, "x", *options(hidden_dropout=0.25, reconstruction_weight=3))
    model = build_model(arguments, data, final)
    assert (model.config.hidden_dropout, model.dropout.p) == (0.25, 0.25)
    assert (model.config.reconstruction_weight, model.dtype) == (3, torch.float32)
    merged = build_model(runs.parse(prepared, "x", "--attention_projections", "merged")[0], data, final).eval()
    assert merged.config.attention_projections == "merged"
    ids = random_ids(3, length=160)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, model.eval()(ids).logits, rtol=1e-4, atol=1e-5)


def test_fine_tuning_does_not_start_from_a_damaged_checkpoint(copied, prepared, tmp_path):
    weights = runs.weights_of(copied / "final")
    weights["expression_head.weight"].fill_(torch.nan)
    save_file(weights, copied / "final" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"not finite: expression_head\.weight"):
        run(prepared, tmp_path / "tuned", "--init_from", copied / "final", *SHORT)
    assert not (tmp_path / "tuned" / "final").exists()


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("/home/me/table.tsv", "table.tsv"),
        ("tables/Promoters.TSV.gz", "Promoters.TSV.gz"),
        ("tests/training", "training"),
        ("me/Qwen2.5-promoter", "me/Qwen2.5-promoter"),
        ("data/2024/promoters.v2", "promoters.v2"),
        (".", ROOT.name),
        ("simulation", "simulation"),
        ("hf://datasets/me/promoters/*.parquet", "hf://datasets/me/promoters/*.parquet"),
        ("file:///home/me/secret/part-*.parquet", "part-*.parquet"),
        ("https://me:token@host/x.parquet?X-Amz-Signature=abc", "x.parquet"),
        ("zip://*.parquet::/home/me/x.zip", "x.zip"),
    ],
)
def test_cards_name_no_folders(name, public, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert public_name(name) == public


def test_early_stopping(prepared, tmp_path):
    words = options(max_steps=200, eval_steps=1, save_steps=1, learning_rate=0.0, early_stopping_patience=2)
    run(prepared, tmp_path, *words)
    steps = [int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*")]
    assert max(steps) == 3, "the first evaluation is the best, and two more are not better"
    assert is_complete(tmp_path / "checkpoint-3")


RECIPES = sorted(path for path in (ROOT / "configs").glob("*.yaml") if "accelerate" not in path.name)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid(recipe, prepared, tmp_path):
    model_arguments, args = runs.parse(prepared, tmp_path, "--use_cpu", "true", recipe=recipe)
    assert MacaronConfig(**model_arguments.given())
    assert args.per_device_train_batch_size == args.global_batch_size
    assert (args.load_best_model_at_end, args.metric_for_best_model) == (True, "pearson_r")
    assert args.early_stopping_patience is None or 0 < args.early_stopping_patience * args.eval_steps < args.max_steps


def test_paper_recipe_matches_the_paper():
    recipe = yaml.safe_load((ROOT / "configs" / "paper_4gpu.yaml").read_text())
    fields = {name: value for name, value in recipe.items() if hasattr(MacaronConfig, name)}
    assert MacaronConfig(**fields).to_dict() == MacaronConfig().to_dict()
    assert recipe["learning_rate"] == pytest.approx(512**-0.5 * 12500**-0.5)
    expected = {
        "global_batch_size": 512, "adam_beta1": 0.9, "adam_beta2": 0.98, "adam_epsilon": 1e-9, "weight_decay": 0.0,
        "clip_grad_value": 0.5, "clip_tensor_norm": 1.0, "bf16": True, "warmup_steps": 12500,
    }  # fmt: skip
    assert expected.items() <= recipe.items()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([RECIPE], "--dataset"),
        ([RECIPE, "--dataset", "DATA", "NO OUTPUT"], "--output_dir is missing"),
        (["absent.yaml", "--dataset", "x"], r"absent\.yaml"),
        (["BROKEN", "--dataset", "DATA"], r"broken\.yaml"),
        (["UNKNOWN", "--dataset", "DATA"], "unknown options surprise"),
        ([RECIPE, "--dataset", "absent"], "absent is not a prepared data set"),
        ([RECIPE, "--dataset", "DATA", "--hidden_dropout", "1.5"], "`hidden_dropout`"),
        ([RECIPE, "--dataset", "DATA", "--gradient_accumulation_steps", "3"], "is not a multiple of"),
        ([RECIPE, "--dataset", "DATA", "--mask_probability", "1.5"], "`mask_probability`"),
        ([RECIPE, "--dataset", "DATA", "--ema_decay", "1.0"], "ema_decay must lie between 0 and 1"),
        ([RECIPE, "--dataset", "DATA", "--expression_bins", "3"], "expression_bins must be 4 to 1000"),
        ([RECIPE, "--dataset", "DATA", "--resume_from_checkpoint", "absent"], "not a complete checkpoint"),
        ([RECIPE, "--dataset", "DATA", "--stream", "x.parquet"], "--stream needs --max_steps"),
        ([RECIPE, "--dataset", "DATA", "--push_to_hub", "true"], "--hub_model_id OWNER/NAME"),
        ([RECIPE, "--dataset", "DATA", "--push_to_hub", "true", "--hub_model_id", "a/b"], "no token found"),
        ([RECIPE, "--dataset", "DATA", "--max_steps", "8", "--num_train_epochs", "2"], "--num_train_epochs has no eff"),
        ([RECIPE, "--dataset", "DATA", "--per_device_train_batch_size", "8"], "no effect if global_batch_size is set"),
        (
            [RECIPE, "--dataset", "DATA", "--global_batch_size", "1000"],
            "training rows are fewer than the batch of 1000",
        ),
    ],
)
def test_mistakes_are_reported_in_one_line(prepared, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unknown.yaml").write_text("surprise: 1\n")
    (tmp_path / "broken.yaml").write_text("surprise: [\n")
    names = {"DATA": str(prepared), "UNKNOWN": "unknown.yaml", "BROKEN": "broken.yaml"}
    output = [] if words[-1] == "NO OUTPUT" else ["--output_dir", "out"]
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        main([*(names.get(word, word) for word in words if word != "NO OUTPUT"), *output, "--disable_tqdm", "true"])
    assert not (tmp_path / "out" / "final").exists()
