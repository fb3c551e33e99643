"""Load a checkpoint and validate all its files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

import torch
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers.utils import cached_file, is_peft_available

from modeling_macaron.atomic import is_full_disk
from modeling_macaron.configuration_macaron import MacaronConfig
from modeling_macaron.hub import reading_from_hub
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction
from tokenization import KmerTokenizer

_OF_DAMAGED_FILES = (SafetensorError, StrictDataclassError, ValueError)
_OF_WRONG_SETTINGS = (AttributeError, LookupError, OverflowError, RecursionError, TypeError)
_ATTENTION = (None, "eager", "sdpa")
_DTYPES = (None, "float64", "float32", "bfloat16", "float16")
# Fields that can make transformers load a Hub kernel, another library or another file.
_CHOICES_OF_A_FILE = {
    "attn_implementation": _ATTENTION,
    "_attn_implementation": _ATTENTION,
    "_attn_implementation_internal": _ATTENTION,
    "dtype": _DTYPES,
    "torch_dtype": _DTYPES,
    "return_dict": (None, True),
    "transformers_weights": (None,),
    "quantization_config": (None,),
    "fusion_config": (None,),
    "per_layer_config": (None,),
}


def default_device() -> str:
    """Return a GPU if there is one. Each process on a machine has its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def load_checkpoint(
    name: str | Path, tokenizer: KmerTokenizer | None = None, dtype: str | torch.dtype = "auto", **changes
) -> tuple[MacaronForExpressionPrediction, KmerTokenizer]:
    """Load weights and tokenizer.

    Parameters
    ----------
    name : str or Path
        Checkpoint folder, or name on the Hub.
    tokenizer : KmerTokenizer, optional
        Default: the checkpoint's.
    dtype : str or torch.dtype
        Type of the weights. Default: as saved.
    **changes
        Fields of the config that replace the checkpoint's.

    Returns
    -------
    MacaronForExpressionPrediction, KmerTokenizer
        On the CPU.

    Raises
    ------
    OSError
        If there is no such checkpoint, it has no safetensors weights, or the Hub cannot be reached.
    ValueError
        If weights are missing, unexpected, of another shape or not finite; if transformers would read other weight
        files than safetensors; if the config is damaged or sets an option reserved for the caller; or if a change is
        invalid.
    """
    config, tokenizer = load_settings(name, tokenizer)
    config.update(changes)
    config.validate_architecture()
    with _explain_failure(name), reading_from_hub():
        _check_weight_files(name)
        model, report = MacaronForExpressionPrediction.from_pretrained(
            name, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    if others := sorted(report["mismatched_keys"]):
        raise ValueError(f"the checkpoint {name} has weights whose shapes do not match its config: {others[0][0]}")
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"the checkpoint {name} lacks {len(missing)} of the model's weights, such as {missing[0]}")
    if unused := sorted(report["unexpected_keys"]):
        raise ValueError(f"the checkpoint {name} has {len(unused)} weights unknown to its config, such as {unused[0]}")
    for weight, values in model.state_dict().items():
        if not values.isfinite().all():
            raise ValueError(f"the checkpoint {name} has weights that are not finite: {weight}")
    return model, tokenizer


def load_settings(name: str | Path, tokenizer: KmerTokenizer | None = None) -> tuple[MacaronConfig, KmerTokenizer]:
    """Load the config and the tokenizer of a checkpoint, without its weights.

    Parameters
    ----------
    name, tokenizer
        See `load_checkpoint`, also for the errors.

    Returns
    -------
    MacaronConfig, KmerTokenizer
    """
    check_checkpoint_name(name)
    with _explain_failure(name, settings=True), reading_from_hub():
        fields = MacaronConfig.get_config_dict(name)[0]
        if not isinstance(fields, dict):
            raise ValueError(f"config.json must hold an object, got {type(fields).__name__}")
        kind = fields.get("model_type")
        if kind == MacaronConfig.model_type:
            _check_choices(fields)
            config = MacaronConfig.from_pretrained(name)
            return config, KmerTokenizer.from_pretrained(name) if tokenizer is None else tokenizer
    raise ValueError(f"the checkpoint {name} is a model of type {kind!r}, not {MacaronConfig.model_type!r}")


def check_checkpoint_name(name: str | Path) -> None:
    """Reject a name that is neither a folder with a model nor a valid name on the Hub.

    Parameters
    ----------
    name : str or Path
        Folder, or `OWNER/NAME`.

    Raises
    ------
    FileNotFoundError
        If the name is neither.
    """
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        hint = f": did you mean {path / 'final'}?" if (path / "final").is_dir() else " (config.json is missing)"
        raise FileNotFoundError(f"{name} is not a checkpoint folder{hint}")
    if not path.is_dir():
        try:
            validate_repo_id(str(name))
            is_name = "/" in str(name) and not path.exists()
        except HFValidationError:
            is_name = False
        if not is_name:
            raise FileNotFoundError(f"there is no checkpoint folder {name}, and a name on the Hub is OWNER/NAME")


def _check_choices(fields: dict) -> None:
    """Reject a config.json that selects how to run the model."""
    for name, choices in _CHOICES_OF_A_FILE.items():
        if (value := fields.get(name)) not in choices:
            possible = " or ".join("absent" if choice is None else repr(choice) for choice in choices)
            raise ValueError(f"`{name}` of a config.json must be {possible}, got {value!r}")


def _check_weight_files(name: str | Path) -> None:
    """Reject a checkpoint from which transformers would read other files than its safetensors."""
    if any(Path(name).glob("shard-*-model-*")):
        raise ValueError(f"{name} holds shards of a distributed checkpoint: save the model in one piece")
    kinds = ("missing_entries", "connection_errors", "gated_repo")
    quiet = {f"_raise_exceptions_for_{kind}": False for kind in kinds}  # loading reports them
    if is_peft_available() and cached_file(name, "adapter_config.json", **quiet):
        raise ValueError(f"{name} holds an adapter: load the model without it, and the adapter with peft")
    if index := cached_file(name, "model.safetensors.index.json", **quiet):
        _check_index(index)


def _check_index(index: str) -> None:
    """Reject an index of weights that is broken or names anything but safetensors files beside it."""
    try:
        content = json.loads(Path(index).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    parts = [content.get(part) for part in ("metadata", "weight_map")] if isinstance(content, dict) else [None]
    if not all(isinstance(part, dict) for part in parts) or not content["weight_map"]:
        raise ValueError(f"{index} is not an index of weights: save the model again")
    for shard in content["weight_map"].values():
        if not isinstance(shard, str) or not re.fullmatch(r"[^/\\]+\.safetensors", shard):
            raise ValueError(f"{shard!r} in {index}: weights are read only from safetensors files beside it")


@contextmanager
def _explain_failure(name: str | Path, settings: bool = False) -> Iterator[None]:
    """Report a damaged or missing checkpoint in one line; other errors keep their type.

    With `settings`, the block reads the JSON files of config and tokenizer, which transformers does not validate.
    """
    try:
        yield
    except OSError as error:
        if Path(name).is_dir() or is_full_disk(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise FileNotFoundError(
            f"there is no checkpoint folder {name}, and no repository of this name on the Hub can be read: {reason}"
        ) from error
    except (*_OF_DAMAGED_FILES, *_OF_WRONG_SETTINGS) as error:
        if isinstance(error, _OF_WRONG_SETTINGS) and not (settings and _is_of_reader(error)):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"the checkpoint {name} cannot be loaded ({type(error).__name__}): {reason[:300]}") from error


def _is_of_reader(error: BaseException) -> bool:
    """Whether an error was raised by code of the standard library or transformers, not by ours."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].partition(".")[0] in ("json", "transformers")
