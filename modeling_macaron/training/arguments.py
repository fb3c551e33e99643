"""Options of a training run: a YAML recipe and whatever the command line says otherwise."""

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

# Fields of the config that come from the data or never change.
_NOT_IN_RECIPES = {
    "vocab_size",
    "strand_length",
    "expression_mean",
    "expression_std",
    "expression_bins",  # the option of this name is their number
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


def _recipe_type(annotation):
    """Type to parse a field of the config as: a number that may be an int or a float is a float."""
    return float if annotation == int | float else annotation


ModelArguments = dataclasses.make_dataclass(
    "ModelArguments",
    [
        (name, _recipe_type(annotation) | None, field(default=None, metadata={"help": "see MacaronConfig"}))
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
    """`transformers.TrainingArguments` with what this model's training adds."""

    dataset: str | None = field(default=None, metadata={"help": "folder that scripts/prepare_data.py wrote"})
    stream: str | None = field(
        default=None,
        metadata={
            "help": "Parquet files to train on while they are read, instead of the data set's training rows (it gives "
            "validation rows, mean and standard deviation): a path, a glob or hf://datasets/OWNER/NAME/PATTERN"
        },
    )
    stream_buffer: int = field(default=100_000, metadata={"help": "rows of a stream that are shuffled in memory"})
    stream_shards: int = field(
        default=8, metadata={"help": "shards of a stream that are read at once: a multiple of the number of processes"}
    )
    sequence_column: str | None = field(
        default=None, metadata={"help": "column of the stream's sequences, where it has no usual name"}
    )
    value_column: str | None = field(
        default=None, metadata={"help": "column of the stream's values, where it has no usual name"}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "checkpoint folder, or auto: the latest complete one of output_dir"}
    )
    init_from: str | None = field(
        default=None, metadata={"help": "checkpoint folder or Hub model to fine-tune, instead of new weights"}
    )
    global_batch_size: int | None = field(
        default=None,
        metadata={"help": "rows of an optimizer step over all processes; sets the batch size of each process"},
    )
    mask_probability: float = field(default=0.05, metadata={"help": "share of letters that are masked"})
    strands: Literal["independent", "paired"] = field(
        default="independent", metadata={"help": "mask each strand on its own, or a nucleotide on both at once"}
    )
    reverse_probability: float = field(
        default=0.0, metadata={"help": "share of training rows whose reverse complement stands first"}
    )
    max_shift: int = field(
        default=0, metadata={"help": "largest number of nt by which a training row's padding moves from side to side"}
    )
    expression_bins: int = field(
        default=0,
        metadata={
            "help": "soft bins of the expression, 4 to 1,000, for example 18: the loss is a Kullback-Leibler "
            "divergence. They are equally spaced from one bin below the 0.1 to one bin above the 99.9 percentile of "
            "the data set's training values; a checkpoint to fine-tune keeps its own. 0: the loss is the squared error"
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "stop after this many evaluations without a better validation Pearson r"}
    )
    clip_grad_value: float | None = field(
        default=None, metadata={"help": "clip each value of a gradient, as the original does at 0.5"}
    )
    clip_tensor_norm: float | None = field(
        default=None, metadata={"help": "clip the norm of each tensor's gradient, as the original does at 1.0"}
    )
    attn_implementation: Literal["sdpa", "eager"] | None = field(
        default=None, metadata={"help": "attention in training: eager is faster on many CPUs, and takes more memory"}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "average the weights over the steps, keeping this share of the average at each, as 0.999"},
    )
    save_examples: bool = field(
        default=False, metadata={"help": "save three measured validation promoters with the model, for the demo"}
    )

    compile_blocks: ClassVar[bool] = False  # set where `torch_compile` is asked for on a CPU

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
            # Each block on its own, see `train_on_cpu`; the Trainer would compile the whole model.
            self.compile_blocks, self.torch_compile = self.torch_compile, False
        self.remove_unused_columns = False
        self.label_names = ["labels"]
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # there is nothing to copy to, and torch would warn
        if self.n_gpu > 1:
            raise ValueError(
                f"{self.n_gpu} GPUs but one process: start with `accelerate launch --num_processes {self.n_gpu}`, "
                "or choose one GPU with CUDA_VISIBLE_DEVICES"
            )


def share_of_batch(global_batch_size: int, processes: int, accumulation_steps: int) -> int:
    """Divide a global batch among processes and accumulation steps.

    Parameters
    ----------
    global_batch_size, processes, accumulation_steps : int
        Rows of an optimizer step, and what they are shared among.

    Returns
    -------
    int
        Rows that a process takes at once.

    Raises
    ------
    ValueError
        If they cannot be shared equally.
    """
    parts = processes * accumulation_steps
    if global_batch_size < parts or global_batch_size % parts:
        raise ValueError(
            f"global_batch_size {global_batch_size} cannot be divided among {processes} processes x "
            f"gradient_accumulation_steps {accumulation_steps}"
        )
    return global_batch_size // parts


def parse_recipe(argv: list[str]) -> tuple[ModelArguments, MacaronTrainingArguments]:
    """Read a recipe and the options after it: `RECIPE.yaml [--option value ...]`.

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
        If the recipe cannot be read or names an unknown option, or an option has an impossible value.
    FileNotFoundError
        If there is no such recipe.
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
    """Options of a YAML recipe."""
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
