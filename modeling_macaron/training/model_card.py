"""Model card of a training run, rendered from what the run measured."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from modeling_macaron.io.tables import TABLE_SUFFIXES
from modeling_macaron.machine import hardware
from modeling_macaron.plots import learning_curves, save_figure
from modeling_macaron.reference import write_reference

from .dataset import PreparedData
from .streaming import StreamedPromoters
from .trainer import MacaronTrainer

LEARNING_CURVE = "learning_curve.png"
TRAINING_FACTS = "training.json"
_MEASURES = {
    "eval_pearson_r": "Pearson r",
    "eval_spearman_rho": "Spearman rho",
    "eval_expression_loss": "Mean squared error (standardized)",
    "eval_reconstruction_loss": "Reconstruction loss (nats)",
}

_MEASURES_WITH_BINS = _MEASURES | {"eval_expression_loss": "Divergence of the soft bins (nats)"}

_TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

Predicts gene expression from promoter DNA. The architecture is that of the team Unlock_DNA in the Random Promoter
DREAM Challenge 2022 (published as Proformer): a Macaron Transformer over the k-mers of both strands, with
{{ parameters }} parameters, trained with the package `macaron-promoter`.

```python
from transformers import pipeline

predict = pipeline("promoter-expression", model="{{ location }}", trust_remote_code=True)
predict("{{ example }}")
# {"sequence": ..., "expression": ..., "standardized_expression": ...{{ bounds }}}
```

`trust_remote_code=True` runs the Python files of this folder: read them first. `expression` is in the units of the
training table. The tokenizer cuts the constant flanks of the construct ({{ flanks }}; `trimming="{{ trimming }}"`),
and the rest may be up to {{ strand_length }} nt long.

## Results

Validation split of the training table ({{ validation_rows }} rows; the checkpoint was chosen on it):

| Measure | Value |
| --- | ---: |
{{ results }}
{{ ridge }}{{ intervals }}
{{ curve }}
## Training

| | |
| --- | --- |
{{ training }}

## Limits

Predictions hold for the assay, the cells and the kind of promoters in the training table. {{ division }}

## Citation

Kwak et al., *Proformer: a hybrid macaron transformer model predicts expression values from promoter sequences*, BMC
Bioinformatics 2024. Rafi et al., *A community effort to optimize sequence-based deep learning models of gene
regulation*, Nature Biotechnology 2024.
"""

_INTERVALS = """
`expression_low` and `expression_high` hold 90 % of the measurements of rows like these (split conformal prediction on
this split).
"""


def compare_with_ridge(facts: dict) -> str:
    """Say how ridge regression on the same rows compares, from `training_facts`; empty where it was not fitted."""
    ridge = facts.get("ridge")
    if not ridge:
        return ""
    ours, theirs = facts["metrics"]["pearson_r"], ridge["pearson_r"]
    place = "behind" if theirs < ours else "ahead of"
    return f"Ridge regression on k-mer counts of the same rows: Pearson r {theirs:.3f}, {place} this model ({ours:.3f})"


def _rows(pairs: dict) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in pairs.items())


def public_name(name: str) -> str:
    """Take the folder off a file's or checkpoint's name: cards are public.

    Parameters
    ----------
    name : str
        Path of a file or folder, or a repository of the Hub.

    Returns
    -------
    str
        `OWNER/NAME` of the Hub stays as it is, and so does an `hf://` address. A folder that exists, or a name with a
        table's suffix, is a path.
    """
    if name.startswith("hf://") and "::" not in name:
        return name
    if "://" in name:  # which may hold folders, names of people and keys
        return name.split("?")[0].rstrip("/").rpartition("/")[2]
    path = Path(name)
    is_path = path.is_absolute() or path.exists() or name.count("/") > 1 or name.lower().endswith(TABLE_SUFFIXES)
    return path.absolute().name if is_path else name


def _base_model(init_from: str | None) -> str | None:
    """Find the model on the Hub that a run started from: itself, or the one that the card of a local folder names."""
    if init_from is None or not Path(init_from).is_dir():
        return init_from
    card = Path(init_from) / "README.md"
    try:
        base = ModelCard.load(card).data.base_model if card.is_file() else None
    except (OSError, ValueError, YAMLError):
        return None  # an unreadable card is ignored
    return base if isinstance(base, str) else None


def training_facts(trainer: MacaronTrainer, data: PreparedData, metrics: dict[str, float]) -> dict:
    """Collect what a reader must know to judge or repeat the run.

    Parameters
    ----------
    trainer : MacaronTrainer
        The trainer after its run.
    data : PreparedData
        What it was trained on.
    metrics : dict[str, float]
        Measures of the validation split with the prefix `eval_`, and `run_seconds`; with the prefix `ridge_`, those of
        ridge regression.

    Returns
    -------
    dict
        Numbers and strings, fit for JSON.
    """
    args, state = trainer.args, trainer.state
    rows = trainer.train_dataset
    stream = None
    if isinstance(rows, StreamedPromoters):
        stream = {"files": public_name(rows.settings["stream"]), "number": rows.settings["files"]}
    return {
        "started_from": None if args.init_from is None else public_name(args.init_from),
        "base_model": _base_model(args.init_from),
        "table": public_name(data.report["source"]["name"]),
        "table_revision": data.report["source"].get("revision"),
        "split_by": data.report.get("split_by", "row" if data.report["validation_fraction"] else "column"),
        "cluster_kmer": data.report.get("cluster_kmer"),
        "cluster_column": data.report.get("cluster_column"),
        "weight_column": data.report.get("weight_column"),
        "stream": stream,
        "training_rows": len(data.train) if stream is None else None,
        "validation_rows": len(data.validation),
        "expression_mean": data.expression_mean,
        "expression_std": data.expression_std,
        "parameters": trainer.model.num_parameters(),
        "steps": state.global_step,
        "best_step": state.best_global_step,
        "epochs": state.epoch,
        "global_batch_size": args.per_device_train_batch_size
        * args.gradient_accumulation_steps
        * trainer.accelerator.num_processes,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "warmup_steps": args.get_warmup_steps(state.max_steps),
        "weight_decay": args.weight_decay,
        "mask_probability": args.mask_probability,
        "strands": args.strands,
        "reconstruction_weight": trainer.model.config.reconstruction_weight,
        "expression_bins": len(trainer.model.config.expression_bins or ()),
        "both_orientations": trainer.model.config.both_orientations,
        "hidden_dropout": trainer.model.config.hidden_dropout,
        "reverse_probability": args.reverse_probability,
        "max_shift": args.max_shift,
        "ema_decay": args.ema_decay,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "float32",
        "seed": args.seed,
        "run_seconds": metrics["run_seconds"],
        "hardware": hardware(args.device, trainer.accelerator.num_processes),
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "ridge": {name.removeprefix("ridge_"): value for name, value in metrics.items() if name.startswith("ridge_")},
        "metrics": {name.removeprefix("eval_"): metrics[name] for name in _MEASURES if name in metrics},
    }


def _masking(facts: dict) -> str:
    """Tell how letters were masked, and what for."""
    if not facts["mask_probability"]:
        return "none"
    purpose = "" if facts["reconstruction_weight"] else ", not reconstructed"
    return f"{facts['mask_probability']:.0%}, {facts['strands']} strands{purpose}"


def _augmentation(facts: dict) -> str:
    """Tell how training rows were changed."""
    kinds = []
    if facts["reverse_probability"]:
        kinds.append(f"reverse complement first in {facts['reverse_probability']:.0%} of the rows")
    if facts["max_shift"]:
        kinds.append(f"padding shifted by up to {facts['max_shift']} nt")
    return ", ".join(kinds) or "none"


def describe_division(facts: dict) -> str:
    """Say what the division into training and validation rows keeps together, from `training_facts`."""
    if facts.get("split_by") == "cluster" and facts["cluster_column"] is None:
        return (
            "Rows with equal or reverse-complemented sequences, or with\n"
            f"{facts['cluster_kmer']} nt in common on either strand, are on one side of the split."
        )
    if facts.get("split_by") == "cluster":
        return f"Rows of one cluster (column `{facts['cluster_column']}`) are on one side of the split."
    return (
        "Near-copies of training rows may be in\nvalidation, so the figures above may flatter a model trained on a "
        "library of similar designs."
    )


def _source(facts: dict) -> dict[str, str]:
    """Tell where the rows came from."""
    stream = facts.get("stream")
    revision = f" (revision `{facts['table_revision']}`)" if facts.get("table_revision") else ""
    if not stream:
        return {"Table": facts["table"] + revision, "Training rows": f"{facts['training_rows']:,}"}
    seen = facts["steps"] * facts["global_batch_size"]
    return {
        "Training rows": f"{seen:,} (with repeats) of the stream `{stream['files']}` (files: {stream['number']:,})",
        "Table of the validation rows, mean and standard deviation": facts["table"] + revision,
    }


def training_table(facts: dict) -> str:
    """Lay out `training_facts` as the lines of a Markdown table.

    Parameters
    ----------
    facts : dict
        See `training_facts`.

    Returns
    -------
    str
    """
    best = f"{facts['best_step']:,}" if facts["best_step"] else "the end"
    bins = facts.get("expression_bins")
    return _rows(
        {
            **({"Started from": facts["started_from"]} if facts.get("started_from") else {}),
            **_source(facts),
            "Mean and standard deviation": f"{facts['expression_mean']:.4g}, {facts['expression_std']:.4g}",
            "Optimizer steps": f"{facts['steps']:,} (best at {best})",
            "Rows per step": facts["global_batch_size"],
            "Learning rate": f"{facts['learning_rate']:.4g}, {facts['lr_scheduler_type']}, "
            f"{facts['warmup_steps']} warm-up steps",
            "Weight decay": facts["weight_decay"],
            **({"Expression loss": f"divergence of {bins} soft bins"} if bins else {}),
            **({"Row weights": f"column `{facts['weight_column']}`"} if facts.get("weight_column") else {}),
            "Masked letters": _masking(facts),
            "Dropout": facts["hidden_dropout"],
            "Augmentation": _augmentation(facts),
            **({"Prediction": "mean over both orientations"} if facts.get("both_orientations") else {}),
            "Averaging of weights": f"decay {facts['ema_decay']}" if facts["ema_decay"] else "none",
            "Precision": facts["precision"],
            "Seed": facts["seed"],
            "Time": f"{facts['run_seconds'] / 60:.1f} min on {facts['hardware']}",
            "Versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        }
    )


def _card_data(name: str, facts: dict, metrics: dict[str, float]) -> ModelCardData:
    """Give what the Hub reads of a card: kind of model, origin, and measures of the validation split."""
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Promoter expression",
            dataset_type="promoter-table",
            dataset_name=facts["table"],
            dataset_split="validation",
            metric_type=_MEASURES[key].lower().replace(" ", "_"),
            metric_name=_MEASURES[key],
            metric_value=metrics[key],
        )
        for key in ("eval_pearson_r", "eval_spearman_rho")
    ]
    return ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["biology", "genomics", "promoter", "gene-expression", "macaron"],
        metrics=["pearsonr", "spearmanr"],
        base_model=facts["base_model"],
        model_name=name,
        eval_results=results,
    )


def write_model_card(
    folder: Path, trainer: MacaronTrainer, data: PreparedData, metrics: dict[str, float], history: list[dict]
) -> None:
    """Write README.md with the run's own figures, its learning curve, `training.json` and `reference.json`.

    Parameters
    ----------
    folder : Path
        Folder for the Hub.
    trainer : MacaronTrainer
        The trainer after its run.
    data : PreparedData
        What it was trained on.
    metrics : dict[str, float]
        Measures of the validation split with the prefix `eval_`, and `run_seconds`.
    history : list of dict
        What was logged during training, for the learning curve.
    """
    facts = training_facts(trainer, data, metrics)
    measures = _MEASURES_WITH_BINS if facts["expression_bins"] else _MEASURES
    has_curve = any("loss" in entry for entry in history)  # a run may end before its first logged step
    name = trainer.args.hub_model_id or Path(trainer.args.output_dir).absolute().name
    tokenizer, interval = trainer.processing_class, trainer.model.config.interval_quantile()
    flanks = ("", "") if tokenizer.trimming == "never" else (tokenizer.flank5, tokenizer.flank3)
    card = ModelCard.from_template(
        _card_data(name, facts, metrics),
        template_str=_TEMPLATE,
        name=name,
        parameters=f"{trainer.model.num_parameters():,}",
        location=trainer.args.hub_model_id or "PATH/OF/THIS/FOLDER",
        example=flanks[0] + ("ACGTTGCATC" * tokenizer.strand_length)[: min(tokenizer.strand_length, 80)] + flanks[1],
        flanks=f"{tokenizer.flank5 or 'none'} ... {tokenizer.flank3 or 'none'}",
        trimming=tokenizer.trimming,
        strand_length=tokenizer.strand_length,
        validation_rows=f"{len(data.validation):,}",
        bounds="" if interval is None else ', "expression_low": ..., "expression_high": ...',
        intervals="" if interval is None else _INTERVALS,
        results=_rows({measures[key]: f"{metrics[key]:.4f}" for key in measures if key in metrics}),
        ridge="" if not (line := compare_with_ridge(facts)) else f"\n{line}.\n",
        curve=f"![Learning curve]({LEARNING_CURVE})\n" if has_curve else "",
        training=training_table(facts),
        division=describe_division(facts),
    )
    card.save(folder / "README.md")
    (folder / TRAINING_FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    split = "validation" if facts["stream"] else "training"
    write_reference(folder, facts["table"], data, split, trainer.args.save_examples)
    if has_curve:
        save_figure(learning_curves(history), folder / LEARNING_CURVE)
