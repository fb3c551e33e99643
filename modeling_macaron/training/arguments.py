"""Options of a training run: a YAML recipe, overridden by the command line."""

from __future__ import annotations

import dataclasses
import inspect
import os
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_origin

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from modeling_macaron.configuration_macaron import MacaronConfig

# Config fields that come from the data or never change.
_NOT_IN_RECIPES = {
    "vocab_size", "strand_length", "expression_mean", "expression_std", "interval_quantiles", "trimer_shares",
    "trimer_limit", "problem_type", "pad_token_id", "mask_token_id",
    "expression_bins",  # the option of this name is the number of bins
}  # fmt: skip


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
        "__doc__": "Fields of `MacaronConfig` that a recipe may set. None keeps the default or the checkpoint's value.",
        "given": lambda self: {name: value for name, value in vars(self).items() if value is not None},
    },
)


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class MacaronTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with options of this model, described in their help."""

    dataset: str | None = _option(None, "folder written by scripts/prepare_data.py")
    stream: str | None = _option(
        None,
        "Parquet files to stream training rows from: a path, a glob or hf://datasets/OWNER/NAME/PATTERN. "
        "Validation rows, mean and standard deviation still come from --dataset",
    )
    stream_buffer: int = _option(100_000, "rows of a stream held in memory for shuffling")
    stream_shards: int = _option(8, "shards of a stream read in turn, a multiple of the number of processes")
    sequence_column: str | None = _option(None, "the stream's sequence column, if its name is not a usual one")
    value_column: str | None = _option(None, "the stream's value column, if its name is not a usual one")
    resume_from_checkpoint: str | None = _option(None, "checkpoint folder, or auto for the latest complete one")
    init_from: str | None = _option(None, "checkpoint folder or Hub model to fine-tune")
    global_batch_size: int | None = _option(None, "rows per optimizer step, over all processes")
    mask_probability: float = _option(0.05, "share of nucleotides to mask")
    strands: Literal["independent", "paired"] = _option("independent", "mask each strand alone, or both together")
    reverse_probability: float = _option(0.0, "share of training rows read as their reverse complement")
    max_shift: int = _option(0, "largest random shift of a training row within its padding, in nt")
    expression_bins: int = _option(
        0,
        "number of soft bins of the expression, 4 to 1,000 (for example 18). The loss is then a Kullback-Leibler "
        "divergence. Fine-tuning keeps the checkpoint's bins. 0: squared error",
    )
    early_stopping_patience: int | None = _option(None, "stop after this many evaluations without a better Pearson r")
    clip_grad_value: float | None = _option(None, "clip each element of a gradient (original: 0.5)")
    clip_tensor_norm: float | None = _option(None, "clip the norm of each tensor's gradient (original: 1.0)")
    attn_implementation: Literal["sdpa", "eager"] | None = _option(
        None, "attention in training; eager is faster on many CPUs but takes more memory"
    )
    ema_decay: float | None = _option(None, "decay of an exponential moving average of the weights, for example 0.999")
    save_examples: bool = _option(False, "save three measured validation promoters with the model, for the demo")

    compile_blocks: ClassVar[bool] = False  # set by `torch_compile` on a CPU

    def __post_init__(self):
        if self.expression_bins and not 4 <= self.expression_bins <= 1000:
            raise ValueError(f"expression_bins must be 4 to 1000, or 0 for none, got {self.expression_bins}")
        if self.global_batch_size is not None:
            parts = int(os.environ.get("WORLD_SIZE", "1")) * self.gradient_accumulation_steps
            if min(self.global_batch_size, parts) < 1 or self.global_batch_size % parts:
                raise ValueError(
                    f"global_batch_size {self.global_batch_size} is not a multiple of {parts}, the number of "
                    "processes times the accumulation steps"
                )
            self.per_device_train_batch_size = self.global_batch_size // parts
        if self.fp16 and (self.clip_grad_value or self.clip_tensor_norm):
            raise ValueError("clip_grad_value and clip_tensor_norm do not work with fp16: use bf16 or float32")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, for example 0.999, got {self.ema_decay}")
        if self.early_stopping_patience is not None:
            self.restore_callback_states_from_checkpoint = True
        if self.use_cpu or not torch.accelerator.is_available():
            # `train_on_cpu` compiles each block; the Trainer would compile the whole model.
            self.compile_blocks = bool(self.torch_compile or self.torch_compile_backend or self.torch_compile_mode)
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


def parse_recipe(argv: list[str]) -> tuple[ModelArguments, MacaronTrainingArguments]:
    """Parse the arguments `RECIPE.yaml [--option value ...]`. Options override the recipe.

    Raises
    ------
    ValueError
        If an option is unknown, missing or has an invalid value.
    OSError, yaml.YAMLError
        If the recipe cannot be read.
    """
    parser = HfArgumentParser((ModelArguments, MacaronTrainingArguments))
    parser.add_argument("config", help="YAML recipe, for example configs/cpu_tiny.yaml")
    recipe_name = next((argument for argument in argv if argument.endswith((".yaml", ".yml"))), None)
    if recipe_name is not None:
        with open(recipe_name, encoding="utf-8") as file:
            recipe = yaml.safe_load(file)
        if not isinstance(recipe, dict):
            raise ValueError(f"{recipe_name}: a recipe is a list of `option: value` lines")
        unknown = sorted(set(map(str, recipe)) - {action.dest for action in parser._actions})
        if unknown:
            raise ValueError(f"{recipe_name}: unknown options {', '.join(unknown)}")
        parser.set_defaults(**recipe)
    model_arguments, arguments, _ = parser.parse_args_into_dataclasses(argv)
    words = " ".join(argv)
    for option, overriding in (("per_device_train_batch_size", "global_batch_size"), ("num_train_epochs", "max_steps")):
        if f"--{option}" in words and (getattr(arguments, overriding) or 0) > 0:
            raise ValueError(f"--{option} has no effect if {overriding} is set: pass --{overriding}")
    if "--output_dir" not in words and not parser.get_default("output_dir"):
        raise ValueError("--output_dir is missing: name a folder for the results")
    if not arguments.dataset:
        raise ValueError("--dataset is missing: name a folder written by scripts/prepare_data.py")
    return model_arguments, arguments
