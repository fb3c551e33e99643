"""Sweep: settings are recipes with one change, lines are kept, and the table compares equal seeds."""

import json
from argparse import Namespace

import pytest
import yaml

from benchmarks import sweep
from benchmarks.figures import ROOT
from modeling_macaron import MacaronConfig
from modeling_macaron.data.prepare import prepare_dataset
from modeling_macaron.data.sources import open_source
from modeling_macaron.training.arguments import parse_recipe
from tokenization import KmerTokenizer

YEAST = ROOT / "configs" / "yeast.yaml"


@pytest.mark.parametrize("name", sweep.SETTINGS)
def test_every_setting_changes_the_recipe(name, tmp_path):
    args = Namespace(recipe=YEAST, epochs=1, dataset="d", output=tmp_path, size="recipe", device="cpu")
    setting = sweep.SETTINGS[name]
    assert setting.items() - sweep.options_of({}, args).items() or not setting
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(sweep.options_of(setting, args)))
    model_arguments, arguments = parse_recipe([str(path)])
    MacaronConfig(strand_length=80, **model_arguments.given())
    assert {name: ({**vars(arguments), **vars(model_arguments)})[name] for name in setting} == setting


@pytest.mark.slow
def test_a_sweep_continues_and_reports(tmp_path, capsys):
    data, out, settings = tmp_path / "data", tmp_path / "out", tmp_path / "settings.yaml"
    table = open_source("simulate", num_sequences=200, seed=3)
    prepare_dataset(table, data, tokenizer=KmerTokenizer(strand_length=80), validation_fraction=0.2)
    settings.write_text("dropout 0: {hidden_dropout: 0.0}\n")
    command = ["--dataset", str(data), "--recipe", str(YEAST), "--output", str(out), "--settings", str(settings)]
    command += ["--epochs", "1", "--size", "tiny", "--device", "cpu", "--seeds", "1"]
    sweep.main([*command, "--minutes", "0"])
    assert "the time is up" in capsys.readouterr().out and not (out / "results.jsonl").exists()
    sweep.main([*command, "--share", "1/2"])
    first = (out / "results.jsonl").read_text()
    assert json.loads(first)["setting"] == "dropout 0"
    sweep.main([*command, "--report"])
    lines = (out / "results.jsonl").read_text()
    assert lines.startswith(first) and len(lines.splitlines()) == 2
    assert "| dropout 0 | 1 | " in capsys.readouterr().out
    with pytest.raises(ValueError, match="has runs of 'dropout 0' with other options: choose another --output"):
        sweep.main([*command, "--epochs", "2"])


def test_report_compares_with_the_same_seed():
    runs = [("recipe", 1, 0.8), ("recipe", 2, 0.9), ("kernel 7", 1, 0.79), ("kernel 7", 2, 0.88)]
    lines = [
        {"setting": name, "seed": seed, "pearson_r": r, "spearman_rho": r, "seconds": 9.0, "parameters": 1000}
        for name, seed, r in runs
    ]
    text = sweep.report([*lines, {"setting": "wild", "seed": 1, "problem": "the loss is not finite"}])
    assert "| recipe | 2 | 0.8500 | 0.8000 to 0.9000 | - |" in text
    assert "| kernel 7 | 2 | 0.8350 | 0.7900 to 0.8800 | \N{MINUS SIGN}0.0150 |" in text
    assert "| wild | 1 | diverged |" in text
