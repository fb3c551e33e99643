"""Options of a training run: a YAML recipe, overridden by the command line."""

from __future__ import annotations

import dataclasses
import inspect
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_origin

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from modeling_macaron.configuration_macaron import MacaronConfig

# Config fields that come from the data or never change.
_NOT_IN_RECIPES = {
    "vocab_size",
    "strand_length",
    "expression_mean",
    "expression_std",
    "expression_bins",  # the option of this name is the number of bins
    "interval_quantiles",
    "trimer_shares",
    "trimer_limit",
    "problem_type",
    "pad_token_id",
    "mask_token_id",
}

_AT_LEAST_ONE = (
    "global_batch_size", "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
    "early_stopping_patience",
)  # fmt: skip
MEASURES = ("pearson_r", "spearman_rho", "loss", "expression_loss", "reconstruction_loss")


ModelArguments = dataclasses.make_dataclass(
    "ModelArguments",
    [
        (
            name,
            (float if annotation == int | float else annotation) | None,  # the parser takes one type of number
            field(default=None, metadata={"help": "see MacaronConfig"}),
        )
        for name, annotation in inspect.get_annotations(MacaronConfig, eval_str=True).items()
        if name not in _NOT_IN_RECIPES and get_origin(annotation) is not ClassVar
    ],
    namespace={
        "__doc__": "Fields of `MacaronConfig` that a recipe may set; None leaves the default, or the checkpoint's.",
        "given": lambda self: {name: value for name, value in vars(self).items() if value is not None},
    },
)


@dataclass
class MacaronTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the options of this model; their help describes them."""

    dataset: str | None = field(default=None, metadata={"help": "folder that scripts/prepare_data.py wrote"})
    stream: str | None = field(
        default=None,
        metadata={
            "help": "Parquet files to stream training rows from: a path, a glob or hf://datasets/OWNER/NAME/PATTERN. "
            "The data set still gives the validation rows, the mean and the standard deviation"
        },
    )
    stream_buffer: int = field(default=100_000, metadata={"help": "rows of a stream held in memory for shuffling"})
    stream_shards: int = field(
        default=8, metadata={"help": "shards of a stream read at once: a multiple of the number of processes"}
    )
    sequence_column: str | None = field(
        default=None, metadata={"help": "the stream's sequence column, if its name is not a usual one"}
    )
    value_column: str | None = field(
        default=None, metadata={"help": "the stream's value column, if its name is not a usual one"}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "checkpoint folder, or auto for the latest complete checkpoint in output_dir"}
    )
    init_from: str | None = field(default=None, metadata={"help": "checkpoint folder or Hub model to fine-tune"})
    global_batch_size: int | None = field(
        default=None,
        metadata={"help": "rows per optimizer step over all processes; sets the batch size of each process"},
    )
    mask_probability: float = field(default=0.05, metadata={"help": "share of nucleotides to mask"})
    strands: Literal["independent", "paired"] = field(
        default="independent", metadata={"help": "mask each strand on its own, or a nucleotide on both strands"}
    )
    reverse_probability: float = field(
        default=0.0, metadata={"help": "share of training rows read as their reverse complement"}
    )
    max_shift: int = field(
        default=0, metadata={"help": "largest random shift of a training row within its padding, in nt"}
    )
    expression_bins: int = field(
        default=0,
        metadata={
            "help": "number of soft bins of the expression, 4 to 1,000, for example 18; the loss is then a "
            "Kullback-Leibler divergence. Bins are equally spaced, from one bin below the 0.1 percentile to one bin "
            "above the 99.9 percentile of the training values; fine-tuning keeps the checkpoint's. 0: squared error"
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "stop after this many evaluations without a better validation Pearson r"}
    )
    clip_grad_value: float | None = field(
        default=None, metadata={"help": "clip each element of a gradient (original: 0.5)"}
    )
    clip_tensor_norm: float | None = field(
        default=None, metadata={"help": "clip the norm of each tensor's gradient (original: 1.0)"}
    )
    attn_implementation: Literal["sdpa", "eager"] | None = field(
        default=None, metadata={"help": "attention in training; eager is faster on many CPUs but takes more memory"}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "decay of an exponential moving average of the weights, for example 0.999"},
    )
    save_examples: bool = field(
        default=False, metadata={"help": "save three measured validation promoters with the model, for the demo"}
    )

    compile_blocks: ClassVar[bool] = False  # set by `torch_compile` on a CPU

    def __post_init__(self):
        for name in _AT_LEAST_ONE:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.expression_bins and not 4 <= self.expression_bins <= 1000:
            raise ValueError(f"expression_bins must be 4 to 1000, or 0 for none, got {self.expression_bins}")
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError("there is nothing to train: pass --num_train_epochs or --max_steps above 0")
        if self.metric_for_best_model is not None and self.metric_for_best_model.removeprefix("eval_") not in MEASURES:
            raise ValueError(
                f"metric_for_best_model must be one of {', '.join(MEASURES)}, got {self.metric_for_best_model!r}"
            )
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError("early_stopping_patience needs evaluations, and load_best_model_at_end: true")
        if self.global_batch_size is not None:
            self.per_device_train_batch_size = share_of_batch(
                self.global_batch_size, int(os.environ.get("WORLD_SIZE", "1")), self.gradient_accumulation_steps
            )
        if self.fp16 and (self.clip_grad_value or self.clip_tensor_norm):
            raise ValueError("clip_grad_value and clip_tensor_norm need bf16 or float32, not fp16's scaled gradients")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, for example 0.999, got {self.ema_decay}")
        if self.early_stopping_patience is not None:
            self.restore_callback_states_from_checkpoint = True
        if self.use_cpu or not torch.accelerator.is_available():
            # `train_on_cpu` compiles each block; the Trainer would compile the whole model.
            asked = (self.torch_compile, self.torch_compile_backend, self.torch_compile_mode)
            self.compile_blocks = any(asked)
            self.torch_compile, self.torch_compile_backend, self.torch_compile_mode = False, None, None
        self.remove_unused_columns = False
        self.label_names = ["labels"]
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # torch would warn
        if self.n_gpu > 1:
            raise ValueError(
                f"{self.n_gpu} GPUs but one process: start with `accelerate launch --num_processes {self.n_gpu}`, "
                "or choose one GPU with CUDA_VISIBLE_DEVICES"
            )


def share_of_batch(global_batch_size: int, processes: int, accumulation_steps: int) -> int:
    """Rows per process and accumulation step; raises if they do not divide the global batch."""
    parts = processes * accumulation_steps
    if global_batch_size < parts or global_batch_size % parts:
        raise ValueError(
            f"global_batch_size {global_batch_size} cannot be divided among {processes} processes x "
            f"gradient_accumulation_steps {accumulation_steps}"
        )
    return global_batch_size // parts


def parse_recipe(argv: list[str]) -> tuple[ModelArguments, MacaronTrainingArguments]:
    """Parse `RECIPE.yaml [--option value ...]`.

    Parameters
    ----------
    argv : list of str
        Command line without the program's name. Options override the recipe.

    Returns
    -------
    ModelArguments, MacaronTrainingArguments

    Raises
    ------
    ValueError
        If the recipe is not readable, or an option is unknown or has an invalid value.
    FileNotFoundError
        If the recipe does not exist.
    """
    parser = HfArgumentParser((ModelArguments, MacaronTrainingArguments))
    parser.add_argument("config", help="YAML recipe, for example configs/cpu_tiny.yaml")
    recipe_name = next((argument for argument in argv if argument.endswith((".yaml", ".yml"))), None)
    if recipe_name is not None:
        known = {action.dest for action in parser._actions} - {"config", "help"}
        parser.set_defaults(**_read_recipe(recipe_name, known))
    model_arguments, training_arguments, _ = parser.parse_args_into_dataclasses(argv)
    if training_arguments.global_batch_size and "--per_device_train_batch_size" in " ".join(argv):
        raise ValueError(
            "--per_device_train_batch_size would have no effect beside global_batch_size, which the recipe sets: pass "
            "--global_batch_size, the rows of a step over all processes"
        )
    if training_arguments.max_steps > 0 and "--num_train_epochs" in " ".join(argv):
        raise ValueError(
            "--num_train_epochs would have no effect beside max_steps: pass --max_steps, or --max_steps -1 to train "
            "for epochs"
        )
    if "--output_dir" not in " ".join(argv) and not parser.get_default("output_dir"):
        raise ValueError("no place for the results: name a folder with --output_dir OUTPUT")
    if not training_arguments.dataset:
        raise ValueError("no data: name a folder that scripts/prepare_data.py wrote with --dataset DIR")
    return model_arguments, training_arguments


def _read_recipe(path: str, known: set[str]) -> dict:
    """Read and check the options of a YAML recipe."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such recipe")
    try:
        recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: a recipe is a list of `option: value` lines")
    unknown = sorted(set(map(str, recipe)) - known)
    if unknown:
        raise ValueError(f"{path}: unknown options {', '.join(unknown)}")
    return recipe
