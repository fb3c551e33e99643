"""A training run from prepared data to a folder for the Hub."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from torch import nn
from transformers import EarlyStoppingCallback, set_seed

from modeling_macaron.atomic import check_not_input, new_file, new_folder
from modeling_macaron.configuration_macaron import MacaronConfig
from modeling_macaron.hub import ensure_repository, push_folder
from modeling_macaron.io.tables import Columns
from modeling_macaron.loading import load_checkpoint
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from modeling_macaron.reference import REFERENCE
from tokenization import KmerTokenizer

from .arguments import MacaronTrainingArguments, ModelArguments
from .callbacks import ClipEachGradient
from .checkpoints import find_checkpoint
from .collator import PromoterCollator
from .cpu import train_on_cpu
from .dataset import PreparedData, PromoterDataset
from .metrics import conformal_quantiles, correlation, trimer_settings
from .model_card import LEARNING_CURVE, TRAINING_FACTS, write_model_card
from .streaming import StreamedPromoters
from .trainer import MacaronTrainer

logger = logging.getLogger(__name__)

_RUN_FILE = "run.json"
_FEW_VALIDATION_ROWS = 10
_MOST_COUNTED = 100_000  # rows whose 3-mers are counted
_SMALL_TABLE = 20_000  # most training rows to compare with ridge regression
# Fields of the config that may change when a run is resumed or a checkpoint fine-tuned.
_FREE_FIELDS = {"hidden_dropout", "reconstruction_weight", "both_orientations"}


def build_model(
    arguments: ModelArguments, data: PreparedData, init_from: str | None, expression_bins: int = 0
) -> MacaronForExpressionPrediction:
    """Create a float32 model for the data, or load a checkpoint (folder or Hub model) to fine-tune.

    Raises a `ValueError` if the checkpoint is damaged or has another strand length or architecture. With
    `expression_bins`, a checkpoint without bins gets a new expression head.
    """
    statistics = {
        "expression_mean": data.expression_mean,
        "expression_std": data.expression_std,
        "interval_quantiles": None,  # a checkpoint's values belong to other rows
        "trimer_shares": None,
        "trimer_limit": None,
    }
    strand_length = data.tokenizer.strand_length
    if init_from is None:
        fields = {"kmer_size": data.tokenizer.kmer_size, **arguments.given()}
        bins = _bin_centers(data, expression_bins) if expression_bins else None
        config = MacaronConfig(strand_length=strand_length, expression_bins=bins, **fields, **statistics)
        return MacaronForExpressionPrediction(config)
    changes = {name: value for name, value in arguments.given().items() if name in _FREE_FIELDS}
    model, _ = load_checkpoint(init_from, data.tokenizer, dtype="float32", **changes)
    if arguments.attention_projections == "merged":
        model = model.to_merged()
    for name, value in arguments.given().items():
        if name not in _FREE_FIELDS and getattr(model.config, name) != value:
            raise ValueError(f"`{name}` is {getattr(model.config, name)} in {init_from}, but {value} in the recipe")
    if model.config.strand_length != strand_length:
        raise ValueError(
            f"{init_from} has strands of {model.config.strand_length} nt, but the data have {strand_length}: "
            f"prepare the data with --strand_length {model.config.strand_length}"
        )
    model.config.update(statistics)
    if expression_bins and model.config.expression_bins is None:
        logger.warning("%s has no bins: created a new expression head with %s bins", init_from, expression_bins)
        model.config.expression_bins = _bin_centers(data, expression_bins)
        model.expression_head = nn.Linear(model.config.hidden_size, expression_bins)
        model._init_weights(model.expression_head)
    elif expression_bins and (found := len(model.config.expression_bins)) != expression_bins:
        raise ValueError(f"{init_from} has {found} bins, but the recipe sets `expression_bins` to {expression_bins}")
    return model


def _bin_centers(data: PreparedData, number: int) -> tuple[float, ...]:
    """Space bins from one below the 0.1 percentile of standardized training values to one above the 99.9."""
    low, high = (np.percentile(data.train.labels, (0.1, 99.9)) - data.expression_mean) / data.expression_std
    if low == high:
        raise ValueError("expression_bins needs training values that differ: 99.8 % of them are equal")
    width = (high - low) / (number - 3)
    return tuple(np.linspace(low - width, high + width, number).tolist())


def _check_final_is_ours(final: Path) -> None:
    """Raise if the run would replace files that it did not write."""
    ours = (
        "config.json", "model*.safetensors*", "tokenizer_config.json", "README.md", LEARNING_CURVE, TRAINING_FACTS,
        REFERENCE, "*.py",
    )  # fmt: skip
    names = [path.name for path in final.iterdir()] if final.exists() else []
    foreign = sorted(name for name in names if not any(fnmatch(name, pattern) for pattern in ours))
    if foreign:
        raise FileExistsError(f"{final} would be replaced, but contains {', '.join(foreign)}: move it first")


def _check_same_run(trainer: MacaronTrainer, data: PreparedData, checkpoint: str | None) -> None:
    """Raise if a resumed run has other rows or another model. Records the settings."""
    config, rows = trainer.model.config, trainer.train_dataset
    names = [field.name for field in fields(ModelArguments) if field.name not in _FREE_FIELDS]
    settings = {
        "data": {name: split["fingerprint"] for name, split in data.report["splits"].items()},
        "stream": rows.settings if isinstance(rows, StreamedPromoters) else {},
        "model": {name: getattr(config, name) for name in names}
        | {"expression_bins": len(config.expression_bins or ()), "ema_decay": trainer.args.ema_decay},
    }
    record = None if checkpoint is None else Path(checkpoint).parent / _RUN_FILE
    recorded = json.loads(record.read_text(encoding="utf-8")) if record is not None and record.is_file() else {}
    for kind, now in settings.items():
        then = recorded.get(kind, now)
        for name in {**then, **now}:
            if then.get(name) != now.get(name):
                raise ValueError(
                    f"{checkpoint} was trained with {kind} setting {name}: {then.get(name)}, not "
                    f"{now.get(name)}: use the same value, or another --output_dir"
                )
    if trainer.args.should_save:
        with new_file(Path(trainer.args.output_dir) / _RUN_FILE) as partial:
            partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _training_rows(args: MacaronTrainingArguments, data: PreparedData) -> PromoterDataset | StreamedPromoters:
    """Return the training rows of the data set, or a stream."""
    if args.stream is None:
        return data.train
    if args.max_steps < 1:
        raise ValueError("--stream needs --max_steps, the number of steps to train")
    if data.train.has_weights:
        raise ValueError("--stream does not support row weights: prepare the data set without --weight_column")
    return StreamedPromoters(
        args.stream, data.tokenizer, seed=args.seed, buffer_rows=args.stream_buffer, num_shards=args.stream_shards,
        columns=Columns(args.sequence_column, args.value_column, None), held_out=data.held_out(),
    )  # fmt: skip


def make_trainer(
    model: MacaronForExpressionPrediction, args: MacaronTrainingArguments, data: PreparedData
) -> MacaronTrainer:
    """Create the trainer of a model with its data and callbacks."""
    if len(data.validation) < _FEW_VALIDATION_ROWS and args.should_log:
        logger.warning(
            "a Pearson r of %s validation rows is unreliable, yet it selects the best checkpoint: prepare the data "
            "with a larger --validation_fraction", len(data.validation),
        )  # fmt: skip
    if args.attn_implementation is not None:
        model.set_attn_implementation(args.attn_implementation)
    if args.device.type == "cpu":
        train_on_cpu(model, compile_blocks=args.compile_blocks)
    callbacks = []
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    if args.clip_grad_value is not None or args.clip_tensor_norm is not None:
        callbacks.append(ClipEachGradient(args.clip_grad_value, args.clip_tensor_norm))
    if args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = False  # all parameters are used, even without reconstruction
    tokenizer_settings = {**data.report["tokenizer"], "kmer_size": model.config.kmer_size}
    collator_options = ("mask_probability", "strands", "reverse_probability", "max_shift", "seed")
    return MacaronTrainer(
        model=model,
        args=args,
        data_collator=PromoterCollator(
            data.expression_mean, data.expression_std, **{name: getattr(args, name) for name in collator_options}
        ),
        train_dataset=_training_rows(args, data),
        eval_dataset=data.validation,
        processing_class=KmerTokenizer(**tokenizer_settings),
        callbacks=callbacks,
    )


def train(model_arguments: ModelArguments, args: MacaronTrainingArguments) -> Path | None:
    """Train, choose the checkpoint with the best validation Pearson r, and write (and push) the folder for the Hub.

    With several processes, call it through `modeling_macaron.machine.run_command`, which ends them safely.

    Parameters
    ----------
    model_arguments : ModelArguments
        Fields of the config.
    args : MacaronTrainingArguments
        All other options.

    Returns
    -------
    Path or None
        `OUTPUT/final` on the main process, None on the others.

    Raises
    ------
    ValueError, OSError
        If data, options or checkpoints do not match, or a push fails. `OUTPUT/final` is kept after a failed push.
    """
    push = args.push_to_hub
    args.push_to_hub = False  # the Trainer would push every checkpoint, not the final folder
    if push and not args.hub_model_id:
        raise ValueError("--push_to_hub needs the repository's name: --hub_model_id OWNER/NAME")
    data = PreparedData(args.dataset)
    checkpoint = find_checkpoint(args)
    final = Path(args.output_dir) / "final"
    _check_final_is_ours(final)
    check_not_input(final, (args.init_from, args.dataset))
    if push and args.should_save:
        ensure_repository(args.hub_model_id, private=bool(args.hub_private_repo), token=args.hub_token)
    set_seed(args.seed)
    model = build_model(model_arguments, data, args.init_from, args.expression_bins)
    trainer = make_trainer(model, args, data)
    _check_same_run(trainer, data, checkpoint)
    _train_and_save(trainer, data, checkpoint, final)
    trainer.accelerator.wait_for_everyone()  # the launcher stops all processes if one fails while the main one writes
    if not trainer.is_world_process_zero():
        return None
    if push:  # the other processes do not wait: a push may take longer than the process group's timeout
        push_folder(final, args.hub_model_id, private=bool(args.hub_private_repo), token=args.hub_token)
    return final


def _train_and_save(trainer: MacaronTrainer, data: PreparedData, checkpoint: str | None, final: Path) -> None:
    """Train to the end, and write the folder for the Hub."""
    started = time.monotonic()
    result = trainer.train(resume_from_checkpoint=checkpoint)
    best = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    metrics = {**result.metrics, **best.metrics, "run_seconds": time.monotonic() - started}
    scales = np.sqrt(best.predictions.get("variance", 1.0))
    scores = np.abs(best.predictions["expression"] - best.label_ids) / scales
    trainer.model.config.interval_quantiles = conformal_quantiles(scores)
    trained = data.train if trainer.args.stream is None else data.validation
    strands = (rows.some_strands(_MOST_COUNTED) for rows in (trained, data.validation))
    trainer.model.config.update(trimer_settings(*strands))
    trainer.save_metrics("all", metrics, combined=False)
    whole = trainer.whole_model()
    if not trainer.is_world_process_zero():
        return
    if trained is data.train and len(trained) <= _SMALL_TABLE:
        metrics |= _score_ridge(trained, data.validation)
    with new_folder(final, overwrite=True, marker="config.json") as folder:
        whole.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
        write_model_card(folder, trainer, data, metrics)
        for weights in folder.glob("*.safetensors"):  # written as readable by their owner only
            shutil.copymode(folder / "config.json", weights)


def _score_ridge(trained: PromoterDataset, held_out: PromoterDataset) -> dict[str, float]:
    """Score ridge regression on k-mer counts on the held-out rows. Empty without scikit-learn."""
    try:
        from modeling_macaron.evaluation.ridge import fit_ridge
    except ImportError as error:
        logger.warning("skipped the comparison with ridge regression, which needs the extra `analysis` (%s)", error)
        return {}
    ridge = fit_ridge(trained.some_strands(len(trained)), trained.labels)
    predicted = ridge.predict(held_out.some_strands(len(held_out)))
    return {
        f"ridge_{name}": correlation(predicted, held_out.labels, method)
        for name, method in (("pearson_r", "pearson"), ("spearman_rho", "spearman"))
    }
