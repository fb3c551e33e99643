"""Training runs as users start them: options, processes, interruption, and the folder that comes out."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file, save_file

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction
from modeling_macaron.hub import check_hub_folder
from modeling_macaron.training.arguments import parse_recipe, share_of_batch
from modeling_macaron.training.checkpoints import find_checkpoint, is_complete
from modeling_macaron.training.dataset import PreparedData
from modeling_macaron.training.model_card import describe_division, public_name, training_table
from modeling_macaron.training.run import build_model, train
from tests.batches import random_ids
from tests.launching import free_port
from tests.test_hostile_files import Bomb

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "configs" / "cpu_tiny.yaml")
TINY = [
    *("--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2", "--head_dim", "8"),
    *("--intermediate_size", "16", "--conv_kernel_size", "3", "--num_expression_positions", "4"),
    *("--report_to", "none", "--disable_tqdm", "true", "--per_device_eval_batch_size", "64"),
]
SHORT = [
    *("--global_batch_size", "64", "--max_steps", "12"),
    *("--eval_steps", "4", "--save_steps", "4", "--logging_steps", "2"),
    *("--save_total_limit", "5"),
]


def launch(arguments, processes=1, **kwargs):
    """Start `accelerate launch scripts/train.py`."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)),
        # `--cpu --num_processes 2` starts one process where there is no MPI.
        *(["--multi_gpu", "--main_process_port", free_port()] if processes > 1 else ["--cpu"]),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *(str(ROOT / "scripts" / "train.py"), RECIPE, *map(str, arguments)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )


def finish(process, timeout=300):
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output[-3000:]
    return output


def run(prepared, output_dir, *options):
    return train(*parse_recipe([RECIPE, "--dataset", str(prepared), "--output_dir", str(output_dir), *TINY, *options]))


def weights_of(folder):
    return load_file(Path(folder) / "model.safetensors")


def logged(output_dir, name):
    state = json.loads((Path(output_dir) / "checkpoint-12" / "trainer_state.json").read_text())
    return [entry[name] for entry in state["log_history"] if name in entry]


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    """An undisturbed run of 12 steps on one process, with dropout."""
    output_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    output = finish(
        launch(["--dataset", prepared, "--output_dir", output_dir, *TINY, *SHORT, "--hidden_dropout", "0.1"])
    )
    (output_dir / "output.txt").write_text(output)
    return output_dir


def test_final_folder_is_complete(finished, prepared):
    final = finished / "final"
    check_hub_folder(final)
    model = MacaronForExpressionPrediction.from_pretrained(final)
    data = PreparedData(prepared)
    assert model.config.expression_mean == pytest.approx(data.expression_mean)
    assert model.config.expression_std == pytest.approx(data.expression_std)
    assert (model.config.strand_length, model.config.hidden_dropout) == (80, 0.1)
    assert (final / "learning_curve.png").stat().st_size > 5000
    facts = json.loads((final / "training.json").read_text())
    results = json.loads((finished / "all_results.json").read_text())
    assert facts["metrics"]["pearson_r"] == results["eval_pearson_r"]
    assert (facts["steps"], facts["training_rows"], facts["hidden_dropout"]) == (12, len(data.train), 0.1)
    assert facts["parameters"] == model.num_parameters()


def test_last_lines_tell_what_came_out(finished, prepared):
    results = json.loads((finished / "all_results.json").read_text())
    summary, ridge, place = (finished / "output.txt").read_text().splitlines()[-3:]
    rows = f"{len(PreparedData(prepared).validation):,} validation rows"
    assert summary.startswith("12 steps in ")
    assert f"{rows} Pearson r {results['eval_pearson_r']:.3f}" in summary
    assert ridge.startswith("Ridge regression on k-mer counts of the same rows: Pearson r ")
    assert str(finished / "final") in place


def test_card_says_how_rows_were_divided_and_which_revision_they_have(finished):
    card, facts = ((finished / "final" / name).read_text() for name in ("README.md", "training.json"))
    facts = json.loads(facts)
    assert (facts["split_by"], facts["cluster_kmer"], facts["table_revision"]) == ("cluster", 20, None)
    assert "20 nt in common on either strand, are on one side of the split" in card
    assert "| Table | simulate |" in card
    facts |= {"table": "owner/name", "table_revision": "5b18e5067f", "split_by": "row"}
    assert "| Table | owner/name (revision `5b18e5067f`) |" in training_table(facts)
    assert "may flatter a model" in describe_division(facts)
    assert "column `family`" in describe_division({**facts, "split_by": "cluster", "cluster_column": "family"})


def test_model_card_has_the_figures_of_the_run(finished):
    card = (finished / "final" / "README.md").read_text()
    results = json.loads((finished / "all_results.json").read_text())
    assert f"{results['eval_pearson_r']:.4f}" in card
    assert f"{results['eval_expression_loss']:.4f}" in card
    metadata = yaml.safe_load(card.split("---")[1])
    measured = metadata["model-index"][0]["results"][0]["metrics"]
    assert measured[0]["value"] == pytest.approx(results["eval_pearson_r"])
    assert str(finished) not in card


def test_final_model_is_the_best_on_validation(finished):
    state = json.loads((finished / "checkpoint-12" / "trainer_state.json").read_text())
    measured = {e["step"]: e["eval_pearson_r"] for e in state["log_history"] if "eval_pearson_r" in e}
    best = max(measured, key=measured.get)
    assert state["best_global_step"] == best
    results = json.loads((finished / "all_results.json").read_text())
    assert results["eval_pearson_r"] == pytest.approx(measured[best], abs=1e-6)


@pytest.mark.parametrize("reconstruction_weight", ["1.0", "0.0"])
def test_two_processes_train_as_one_does(prepared, tmp_path, reconstruction_weight):
    """DDP need not look for unused parameters, nor without reconstruction."""
    arguments = ["--dataset", prepared, *TINY, *SHORT, "--reconstruction_weight", reconstruction_weight]
    finish(launch([*arguments, "--output_dir", tmp_path / "one"]))
    told = finish(launch([*arguments, "--output_dir", tmp_path / "two"], processes=2))
    assert "find_unused_parameters" not in told
    states = {path.name for path in (tmp_path / "two" / "checkpoint-12").glob("rng_state*")}
    assert states == {"rng_state_0.pth", "rng_state_1.pth"}, "two processes ran"
    reconstruction = ["reconstruction_loss"] if float(reconstruction_weight) else []
    for name in ("loss", "expression_loss", *reconstruction, "eval_loss", "eval_expression_loss"):
        one, two = (logged(tmp_path / processes, name) for processes in ("one", "two"))
        assert two and two == pytest.approx(one, rel=1e-3), name
    one, two = (weights_of(tmp_path / name / "checkpoint-12") for name in ("one", "two"))
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_two_processes_always_end(prepared, tmp_path):
    """One of 200 used to hang in the release of its process group; the program counts as many ends as it is asked."""
    command = [sys.executable, "-m", "tests.training.end_processes", str(prepared), str(tmp_path), "5", *TINY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "5 ends, each in order"), done.stderr


def test_resumed_run_ends_with_the_same_weights_after_sigkill(finished, prepared, tmp_path):
    arguments = ["--dataset", prepared, "--output_dir", tmp_path, *TINY, *SHORT, "--hidden_dropout", "0.1"]
    process = launch(arguments)
    deadline = time.monotonic() + 200
    while not (tmp_path / "checkpoint-8" / "trainer_state.json").exists():
        assert time.monotonic() < deadline and process.poll() is None, "no checkpoint was written"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    shutil.rmtree(tmp_path / "final", ignore_errors=True)
    for later in tmp_path.glob("checkpoint-12"):
        shutil.rmtree(later)  # where the run was quicker than the signal

    finish(launch([*arguments, "--resume_from_checkpoint", "auto"]))
    undisturbed, resumed = weights_of(finished / "checkpoint-12"), weights_of(tmp_path / "checkpoint-12")
    assert undisturbed.keys() == resumed.keys()
    for name, values in undisturbed.items():
        assert torch.equal(resumed[name], values), name
    for name in ("loss", "expression_loss", "reconstruction_loss", "eval_pearson_r"):
        assert logged(tmp_path, name)[-1] == pytest.approx(logged(finished, name)[-1], rel=1e-6), name


def test_checkpoint_of_a_running_training_loads_as_a_strangers_model(finished, tmp_path):
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
    assert result.returncode == 0, result.stderr[-2000:]
    assert "expression" in result.stdout


def test_half_written_checkpoints_are_passed_over(finished, prepared, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    _, args = parse_recipe(
        [RECIPE, "--dataset", str(prepared), "--output_dir", str(run_dir), "--resume_from_checkpoint", "auto"]
    )
    assert find_checkpoint(args) == str(run_dir / "checkpoint-12")
    (run_dir / "checkpoint-12" / "trainer_state.json").write_text('{"global_step": 1')
    assert find_checkpoint(args) == str(run_dir / "checkpoint-8")
    weights = run_dir / "checkpoint-8" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert not is_complete(run_dir / "checkpoint-8")
    assert find_checkpoint(args) == str(run_dir / "checkpoint-4")
    (run_dir / "checkpoint-4" / "rng_state.pth").unlink()
    assert find_checkpoint(args) is None


def test_foreign_files_in_the_final_folder_are_not_replaced(prepared, tmp_path):
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        run(prepared, tmp_path, *SHORT)
    assert (tmp_path / "final" / "notes.txt").read_text() == "mine"


def test_the_checkpoint_that_is_fine_tuned_is_not_replaced(finished, prepared, tmp_path):
    shutil.copytree(finished / "final", tmp_path / "final")
    before = (tmp_path / "final" / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="is also an input"):
        run(prepared, tmp_path, "--init_from", str(tmp_path / "final"), "--max_steps", "1")
    assert (tmp_path / "final" / "model.safetensors").read_bytes() == before


def test_earlier_run_is_not_overwritten(finished, prepared):
    with pytest.raises(FileExistsError, match="--resume_from_checkpoint auto"):
        run(prepared, finished, *SHORT)


def test_resuming_on_other_data_is_refused(finished, prepared, tmp_path):
    other, run_dir = tmp_path / "other", tmp_path / "run"
    shutil.copytree(prepared, other)
    shutil.copytree(finished, run_dir)
    report = json.loads((other / "report.json").read_text())
    report["splits"]["train"]["fingerprint"] = "another"
    (other / "report.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="other data"):
        run(other, run_dir, *SHORT, "--resume_from_checkpoint", "auto")


def test_fine_tuning_starts_from_the_weights_of_a_checkpoint(finished, prepared, tmp_path):
    start = weights_of(finished / "final")
    options = [
        "--init_from",
        str(finished / "final"),
        "--max_steps",
        "1",
        "--learning_rate",
        "1e-9",
        "--warmup_steps",
        "0",
    ]
    final = run(prepared, tmp_path / "tuned", *options, "--eval_steps", "1", "--save_steps", "1")
    for name, values in weights_of(final).items():
        torch.testing.assert_close(values, start[name], rtol=0, atol=1e-7)
    facts = json.loads((final / "training.json").read_text())
    assert (facts["started_from"], facts["warmup_steps"]) == ("final", 0)
    card = ModelCard.load(final / "README.md")
    assert "| Started from | final |" in card.text
    assert card.data.base_model is None, "a folder is no repository of the Hub"
    with pytest.raises(ValueError, match="`hidden_size` is 16"):
        run(prepared, tmp_path / "other", *options, "--hidden_size", "32")


@pytest.mark.parametrize(
    ("start", "started_from", "base"),
    [
        ("me/Qwen2.5-promoter", "me/Qwen2.5-promoter", "me/Qwen2.5-promoter"),
        ("copy", "copy", "me/base.v2"),
        ("broken", "broken", None),
    ],
)
def test_card_names_the_model_that_was_fine_tuned(finished, prepared, tmp_path, monkeypatch, start, started_from, base):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached = tmp_path / "cache" / "models--me--Qwen2.5-promoter"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    for folder, card in (
        (cached / "snapshots" / ("0" * 40), "# Mine\n"),
        (tmp_path / "copy", "---\nbase_model: me/base.v2\n---\n# Mine\n"),
        (tmp_path / "broken", "---\nbase_model: [\n---\n# Mine\n"),
    ):
        shutil.copytree(finished / "final", folder)
        (folder / "README.md").write_text(card)
    final = run(prepared.resolve(), "tuned", "--init_from", start, "--max_steps", "1")
    card = ModelCard.load(final / "README.md")
    assert f"| Started from | {started_from} |" in card.text
    assert card.data.base_model == base


def test_fine_tuning_in_merged_form_starts_from_the_same_function(finished, prepared):
    data = PreparedData(prepared)
    models = []
    for projections in ("separate", "merged"):
        arguments, _ = parse_recipe(
            [RECIPE, *TINY, *("--dataset", str(prepared), "--output_dir", "x", "--attention_projections", projections)]
        )
        models.append(build_model(arguments, data, str(finished / "final")).eval())
    assert [model.config.attention_projections for model in models] == ["separate", "merged"]
    ids = random_ids(3, length=160)
    with torch.no_grad():
        torch.testing.assert_close(models[1](ids).logits, models[0](ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: [weights.pop(name) for name in sorted(weights)[:5]], "lacks 5 of the model's weights"),
        (lambda weights: weights["expression_head.weight"].fill_(torch.nan), "not finite: expression_head.weight"),
        (
            lambda weights: weights.update(other=torch.zeros(1)),
            "has weights that the model of its config lacks: 1, other",
        ),
        (None, "cannot be loaded .SafetensorError."),
    ],
)
def test_fine_tuning_does_not_start_from_a_damaged_checkpoint(finished, prepared, tmp_path, damage, message):
    folder = tmp_path / "damaged"
    shutil.copytree(finished / "final", folder)
    if damage is None:
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    else:
        weights = weights_of(folder)
        damage(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        run(prepared, tmp_path / "tuned", "--init_from", str(folder), *SHORT)
    assert not (tmp_path / "tuned" / "final").exists()


def test_fine_tuning_takes_what_the_recipe_may_change(finished, prepared):
    options = [
        "--dataset",
        str(prepared),
        "--output_dir",
        "x",
        "--hidden_dropout",
        "0.25",
        "--reconstruction_weight",
        "3",
    ]
    arguments, _ = parse_recipe([RECIPE, *TINY, *options])
    model = build_model(arguments, PreparedData(prepared), str(finished / "final"))
    assert (model.config.hidden_dropout, model.dropout.p) == (0.25, 0.25)
    assert (model.config.reconstruction_weight, model.dtype) == (3, torch.float32)


def test_another_architecture_is_refused_where_a_run_goes_on(finished, prepared, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    message = "checkpoint-12 was trained with hidden_size 16, and would go on with 32: use the same"
    with pytest.raises(ValueError, match=message):
        run(prepared, tmp_path / "run", *SHORT, "--hidden_size", "32", "--resume_from_checkpoint", "auto")


def test_weights_may_be_read_by_those_who_may_read_the_config(finished):
    final = finished / "final"
    assert (final / "model.safetensors").stat().st_mode == (final / "config.json").stat().st_mode


def test_resuming_runs_no_pickle(finished, prepared, tmp_path):
    """`training_args.bin` is not read; of the others only what cannot run code is."""
    harm = tmp_path / "harm"
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        run_dir = tmp_path / name
        shutil.copytree(finished, run_dir, ignore=shutil.ignore_patterns("checkpoint-12"))  # steps are left to take
        for folder in run_dir.glob("checkpoint-*"):
            torch.save(Bomb(harm), folder / name)
        options = [*SHORT, "--hidden_dropout", "0.1", "--resume_from_checkpoint", "auto"]
        if name == "training_args.bin":
            run(prepared, run_dir, *options)
        else:
            with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights"):
                run(prepared, run_dir, *options)
        assert not harm.exists()


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("/home/me/table.tsv", "table.tsv"),
        ("tables/promoters.parquet", "promoters.parquet"),
        ("tests/training", "training"),
        ("me/my-model", "me/my-model"),
        ("me/my-model-1.0", "me/my-model-1.0"),
        ("me/Qwen2.5-promoter", "me/Qwen2.5-promoter"),
        ("me/model.v2", "me/model.v2"),
        ("tables/Promoters.TSV.gz", "Promoters.TSV.gz"),
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
    options = ["--max_steps", "200", "--eval_steps", "1", "--save_steps", "1", "--learning_rate", "0.0"]
    run(prepared, tmp_path / "run", *options, "--early_stopping_patience", "2")
    steps = [int(path.name.split("-")[1]) for path in (tmp_path / "run").glob("checkpoint-*")]
    assert max(steps) == 3, "the first evaluation is the best, and two more are not better"


@pytest.mark.parametrize(
    "recipe", sorted(path.name for path in (ROOT / "configs").glob("*.yaml") if "accelerate" not in path.name)
)
def test_recipes_are_valid(recipe, prepared, tmp_path):
    model_arguments, args = parse_recipe(
        [str(ROOT / "configs" / recipe), "--dataset", str(prepared), "--output_dir", str(tmp_path), "--use_cpu", "true"]
    )
    assert MacaronConfig(**model_arguments.given())
    assert args.per_device_train_batch_size == args.global_batch_size
    assert (args.load_best_model_at_end, args.metric_for_best_model) == (True, "pearson_r")


def test_place_for_the_results_must_be_named(prepared):
    with pytest.raises(ValueError, match="--output_dir OUTPUT"):
        parse_recipe([RECIPE, "--dataset", str(prepared)])


def test_paper_recipe_is_the_paper(prepared, tmp_path):
    recipe = str(ROOT / "configs" / "paper_4gpu.yaml")
    model_arguments, args = parse_recipe(
        [recipe, "--dataset", str(prepared), "--output_dir", str(tmp_path), "--use_cpu", "true"]
    )
    config = MacaronConfig(**model_arguments.given())
    assert config.to_dict() == MacaronConfig().to_dict()
    assert (args.global_batch_size, args.gradient_accumulation_steps) == (512, 1)
    assert share_of_batch(args.global_batch_size, processes=4, accumulation_steps=1) == 128
    assert args.learning_rate == pytest.approx(512**-0.5 * 12500**-0.5)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.weight_decay) == (0.9, 0.98, 1e-9, 0.0)
    assert (args.clip_grad_value, args.clip_tensor_norm, args.bf16) == (0.5, 1.0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([RECIPE], "--dataset"),
        (["absent.yaml", "--dataset", "x"], "no such recipe"),
        ([RECIPE, "--dataset", "absent"], "report.json is missing"),
        ([RECIPE, "--dataset", "DATA", "--hidden_dropout", "1.5"], "`hidden_dropout`"),
        (
            [RECIPE, "--dataset", "DATA", "--global_batch_size", "7", "--gradient_accumulation_steps", "2"],
            "cannot be divided",
        ),
        ([RECIPE, "--dataset", "DATA", "--mask_probability", "1.5"], "`mask_probability`"),
        ([RECIPE, "--dataset", "DATA", "--resume_from_checkpoint", "absent"], "no complete checkpoint"),
        ([RECIPE, "--dataset", "DATA", "--push_to_hub", "true"], "--hub_model_id OWNER/NAME"),
        ([RECIPE, "--dataset", "DATA", "--push_to_hub", "true", "--hub_model_id", "a/b"], "no token found"),
        (["BROKEN", "--dataset", "DATA"], "unknown options surprise"),
    ],
)
def test_mistakes_are_told_in_one_line(prepared, tmp_path, arguments, message):
    (tmp_path / "broken.yaml").write_text("surprise: 1\n")
    names = {"DATA": str(prepared), "BROKEN": str(tmp_path / "broken.yaml")}
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *(names.get(a, a) for a in arguments)]
    result = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "out")], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 1, result.stderr[-1000:]
    assert message in result.stderr
    assert "Traceback" not in result.stderr
