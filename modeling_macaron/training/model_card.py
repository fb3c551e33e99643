"""Model card of a training run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

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
_OPTIONS = (
    "learning_rate", "weight_decay", "mask_probability", "strands", "reverse_probability", "max_shift", "ema_decay",
    "seed",
)  # fmt: skip

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
training table. The tokenizer trims the constant flanks of the construct ({{ flanks }}; `trimming="{{ trimming }}"`).
The variable part may be up to {{ strand_length }} nt long.

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
For rows like these, 90 % of the measurements lie between `expression_low` and `expression_high` (split conformal
prediction on this split).
"""


def compare_with_ridge(facts: dict) -> str:
    """Compare the model with ridge regression on the same rows. Empty if ridge regression was not fitted."""
    if not facts.get("ridge"):
        return ""
    ours, theirs = facts["metrics"]["pearson_r"], facts["ridge"]["pearson_r"]
    place = "behind" if theirs < ours else "ahead of"
    return f"Ridge regression on k-mer counts of the same rows: Pearson r {theirs:.3f}, {place} this model ({ours:.3f})"


def _rows(pairs: dict) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in pairs.items())


def public_name(name: str) -> str:
    """Remove folders, user names and keys from the name of a file, folder or checkpoint, since cards are public."""
    if name.startswith("hf://") and "::" not in name:
        return name
    if "://" in name:
        return name.split("?")[0].rstrip("/").rpartition("/")[2]
    path = Path(name)
    is_path = path.is_absolute() or path.exists() or name.count("/") > 1 or name.lower().endswith(TABLE_SUFFIXES)
    return path.absolute().name if is_path else name


def training_facts(trainer: MacaronTrainer, data: PreparedData, metrics: dict[str, float]) -> dict:
    """Collect settings and results of a run for `training.json`."""
    args, state, config, rows = trainer.args, trainer.state, trainer.model.config, trainer.train_dataset
    start, stream = args.init_from, None
    if isinstance(rows, StreamedPromoters):
        stream = {"files": public_name(rows.settings["stream"]), "number": rows.settings["files"]}
    return {
        "started_from": None if start is None else public_name(start),
        "base_model": None if start is None or Path(start).is_dir() else start,
        "table": public_name(data.report["source"]["name"]),
        "table_revision": data.report["source"].get("revision"),
        "split_by": data.report.get("split_by", "row" if data.report["validation_fraction"] else "column"),
        **{name: data.report.get(name) for name in ("cluster_kmer", "cluster_column", "weight_column")},
        "stream": stream,
        "training_rows": len(data.train) if stream is None else None,
        "validation_rows": len(data.validation),
        "expression_mean": data.expression_mean,
        "expression_std": data.expression_std,
        "parameters": trainer.model.num_parameters(),
        "steps": state.global_step,
        "best_step": state.best_global_step,
        "epochs": state.epoch,
        "global_batch_size": trainer.rows_per_step,
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "warmup_steps": args.get_warmup_steps(state.max_steps),
        **{name: getattr(args, name) for name in _OPTIONS},
        **{name: getattr(config, name) for name in ("reconstruction_weight", "both_orientations", "hidden_dropout")},
        "expression_bins": len(config.expression_bins or ()),
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "float32",
        "run_seconds": metrics["run_seconds"],
        "hardware": hardware(args.device, trainer.accelerator.num_processes),
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "ridge": {name.removeprefix("ridge_"): value for name, value in metrics.items() if name.startswith("ridge_")},
        "metrics": {name.removeprefix("eval_"): metrics[name] for name in _MEASURES if name in metrics},
    }


def _describe_division(facts: dict) -> str:
    """Describe which rows are on one side of the split."""
    if facts.get("split_by") != "cluster":
        return (
            "Near-copies of training rows may be in\nvalidation, so the figures above may flatter a model trained on a "
            "library of similar designs."
        )
    kept = f"Rows of one cluster (column `{facts['cluster_column']}`)"
    if facts["cluster_column"] is None:
        kmer = facts["cluster_kmer"]
        kept = f"Rows with equal or reverse-complemented sequences, or with\n{kmer} nt in common on either strand,"
    return f"{kept} are on one side of the split."


def _describe_source(facts: dict) -> dict[str, str]:
    """Table lines about the source of the training rows."""
    revision = f" (revision `{facts['table_revision']}`)" if facts.get("table_revision") else ""
    table, stream = facts["table"] + revision, facts.get("stream")
    if not stream:
        return {"Table": table, "Training rows": f"{facts['training_rows']:,}"}
    seen = f"{facts['steps'] * facts['global_batch_size']:,}"
    return {
        "Training rows": f"{seen} (with repeats) of the stream `{stream['files']}` (files: {stream['number']:,})",
        "Table of the validation rows, mean and standard deviation": table,
    }


def training_table(facts: dict) -> str:
    """Lay out `training_facts` as the lines of a Markdown table."""
    best = f"{facts['best_step']:,}" if facts["best_step"] else "the end"
    rate = f"{facts['learning_rate']:.4g}, {facts['lr_scheduler_type']}, {facts['warmup_steps']} warm-up steps"
    bins, weights, masked = facts.get("expression_bins"), facts.get("weight_column"), facts["mask_probability"]
    purpose = "" if facts["reconstruction_weight"] else ", not reconstructed"
    masking = f"{masked:.0%}, {facts['strands']} strands{purpose}" if masked else "none"
    turned, shift = facts["reverse_probability"], facts["max_shift"]
    augmentation = [f"reverse complement first in {turned:.0%} of the rows"] if turned else []
    augmentation += [f"padding shifted by up to {shift} nt"] if shift else []
    lines = {
        "Started from": facts.get("started_from"),
        **_describe_source(facts),
        "Mean and standard deviation": f"{facts['expression_mean']:.4g}, {facts['expression_std']:.4g}",
        "Optimizer steps": f"{facts['steps']:,} (best at {best})",
        "Rows per step": facts["global_batch_size"],
        "Learning rate": rate,
        "Weight decay": facts["weight_decay"],
        "Expression loss": f"divergence of {bins} soft bins" if bins else None,
        "Row weights": f"column `{weights}`" if weights else None,
        "Masked nucleotides": masking,
        "Dropout": facts["hidden_dropout"],
        "Augmentation": ", ".join(augmentation) or "none",
        "Prediction": "mean over both orientations" if facts.get("both_orientations") else None,
        "Averaging of weights": f"decay {facts['ema_decay']}" if facts["ema_decay"] else "none",
        "Precision": facts["precision"],
        "Seed": facts["seed"],
        "Time": f"{facts['run_seconds'] / 60:.1f} min on {facts['hardware']}",
        "Versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    }
    return _rows({name: value for name, value in lines.items() if value is not None})


def _card_data(name: str, facts: dict, metrics: dict[str, float]) -> ModelCardData:
    """Metadata for the Hub, with the measures of the validation split."""
    measured = {"task_type": "text-classification", "task_name": "Promoter expression"}
    measured |= {"dataset_type": "promoter-table", "dataset_name": facts["table"], "dataset_split": "validation"}
    results = [
        EvalResult(metric_type=kind, metric_name=_MEASURES[key], metric_value=metrics[key], **measured)
        for key, kind in (("eval_pearson_r", "pearson_r"), ("eval_spearman_rho", "spearman_rho"))
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


def write_model_card(folder: Path, trainer: MacaronTrainer, data: PreparedData, metrics: dict[str, float]) -> None:
    """Write README.md, the learning curve, `training.json` and `reference.json`.

    `metrics` holds the measures of the validation split with the prefix `eval_`, those of ridge regression with the
    prefix `ridge_`, and `run_seconds`.
    """
    facts = training_facts(trainer, data, metrics)
    bins = {"eval_expression_loss": "Divergence of the soft bins (nats)"} if facts["expression_bins"] else {}
    measures = _MEASURES | bins
    history = trainer.state.log_history
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
        division=_describe_division(facts),
    )
    card.save(folder / "README.md")
    (folder / TRAINING_FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    split = "validation" if facts["stream"] else "training"
    write_reference(folder, facts["table"], data, split, trainer.args.save_examples)
    if has_curve:
        save_figure(learning_curves(history), folder / LEARNING_CURVE)
