"""Convert weights of the original TensorFlow implementation to a Hugging Face model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from modeling_macaron.io.atomic import new_folder
from tokenization import KmerTokenizer

from .configuration_macaron import MacaronConfig
from .modeling_macaron import MacaronForExpressionPrediction

_TF_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_TF_BOOKKEEPING = re.compile(r"\.OPTIMIZER_SLOT/|^optimizer/|^_CHECKPOINTABLE_OBJECT_GRAPH$|^save_counter|^metrics/")

_CARD = """---
license: apache-2.0
library_name: transformers
tags:
- promoter
- gene-expression
- macaron
---

# Macaron promoter model

Weights of the original TensorFlow implementation of team Unlock_DNA (Proformer), converted: {parameters:,} parameters.
"""


class _Rule(NamedTuple):
    """Target of an original variable and the change of its layout."""

    target: str
    layout: Callable[[np.ndarray], np.ndarray] = np.asarray


def _heads_kernel(array: np.ndarray) -> np.ndarray:
    """(hidden, heads, head_dim) to (heads * head_dim, hidden)."""
    return array.reshape(array.shape[0], -1).T


def _output_kernel(array: np.ndarray) -> np.ndarray:
    """(heads, head_dim, hidden) to (hidden, heads * head_dim)."""
    return array.reshape(-1, array.shape[-1]).T


def _depthwise_kernel(array: np.ndarray) -> np.ndarray:
    """(width, hidden, 1) to (hidden, 1, width)."""
    return array.transpose(1, 2, 0)


def _pointwise_kernel(array: np.ndarray) -> np.ndarray:
    """(1, hidden, hidden) to (hidden, hidden), output first."""
    return array[0].T


def _norm_rules(source: str, target: str) -> dict[str, _Rule]:
    return {f"{source}/gamma": _Rule(f"{target}.weight"), f"{source}/beta": _Rule(f"{target}.bias")}


def _feed_forward_rules(source: str, target: str) -> dict[str, _Rule]:
    return {
        **_norm_rules(f"{source}/net/layer_with_weights-0", f"{target}.layer_norm"),
        f"{source}/net/layer_with_weights-1/kernel": _Rule(f"{target}.up_proj.weight", np.transpose),
        f"{source}/net/layer_with_weights-2/kernel": _Rule(f"{target}.down_proj.weight", np.transpose),
    }


def _attention_rules(source: str, target: str) -> dict[str, _Rule]:
    rules = {
        f"{source}/_output_dense/kernel": _Rule(f"{target}.o_proj.weight", _output_kernel),
        f"{source}/_output_dense/bias": _Rule(f"{target}.o_proj.bias"),
    }
    for name, projection in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        rules[f"{source}/_{name}_dense/kernel"] = _Rule(f"{target}.{projection}.weight", _heads_kernel)
        rules[f"{source}/_{name}_dense/bias"] = _Rule(f"{target}.{projection}.bias", np.ravel)
    return rules


def _block_rules(index: int) -> dict[str, _Rule]:
    source, target = f"blocks/layer_with_weights-{index}", f"macaron.layers.{index}"
    convolution = f"{target}.convolution"
    return {
        **_feed_forward_rules(f"{source}/ff1", f"{target}.feed_forward1"),
        **_norm_rules(f"{source}/conv/layer_with_weights-0", f"{convolution}.layer_norm"),
        f"{source}/conv/layer_with_weights-1/depthwise_kernel": _Rule(
            f"{convolution}.depthwise_conv.weight", _depthwise_kernel
        ),
        f"{source}/conv/layer_with_weights-1/pointwise_kernel": _Rule(
            f"{convolution}.pointwise_conv.weight", _pointwise_kernel
        ),
        f"{source}/conv/layer_with_weights-1/bias": _Rule(f"{convolution}.pointwise_conv.bias"),
        **_norm_rules(f"{source}/layernorm", f"{target}.layer_norm"),
        **_attention_rules(f"{source}/attn", f"{target}.self_attn"),
        **_feed_forward_rules(f"{source}/ff2", f"{target}.feed_forward2"),
    }


def _rules(config: MacaronConfig) -> dict[str, _Rule]:
    """Rules for all variables of the original model of this config."""
    rules = {
        "kmer_dense/kernel": _Rule("macaron.embeddings.kmer_projection.weight", np.transpose),
        "kmer_dense/bias": _Rule("macaron.embeddings.kmer_projection.bias"),
        "pos_embedding/embeddings": _Rule("macaron.embeddings.position_embeddings.weight"),
        "strand_embedding/embeddings": _Rule("macaron.embeddings.strand_embeddings.weight"),
    }
    if config.num_pooled_positions:
        rules["expression_embedding/kernel"] = _Rule("macaron.embeddings.expression_projection.weight", np.transpose)
        rules["expression_embedding/bias"] = _Rule("macaron.embeddings.expression_projection.bias")
    for index in range(config.num_hidden_layers):
        rules.update(_block_rules(index))
    for source, target in (("expression_dense", "expression_head"), ("nucleotide_dense", "nucleotide_head")):
        rules[f"{source}/kernel"] = _Rule(f"{target}.weight", np.transpose)
        rules[f"{source}/bias"] = _Rule(f"{target}.bias")
    return rules


def read_original_weights(source: str | Path) -> dict[str, np.ndarray]:
    """Read the variables of the original by name, without optimizer state.

    Parameters
    ----------
    source : str or Path
        A `.safetensors` file, or the prefix of a TensorFlow checkpoint (`PREFIX.index`).

    Returns
    -------
    dict[str, numpy.ndarray]
        Variables in the original's layouts.

    Raises
    ------
    FileNotFoundError
        If neither exists.
    ValueError
        If the file is not readable.
    ImportError
        If a TensorFlow checkpoint is given and TensorFlow is not installed.
    """
    if str(source).endswith(".safetensors"):
        if not Path(source).is_file():
            raise FileNotFoundError(f"{source}: no such file")
        try:
            return load_file(source)
        except SafetensorError as error:
            raise ValueError(f"{source}: not a readable safetensors file ({error})") from error
    if not Path(f"{source}.index").is_file():
        raise FileNotFoundError(
            f"{source}: neither a .safetensors file nor the prefix of a TensorFlow checkpoint: "
            f"{source}.index is missing"
        )
    return _read_tf_checkpoint(str(source))


def _read_tf_checkpoint(prefix: str) -> dict[str, np.ndarray]:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            'reading a TensorFlow checkpoint needs TensorFlow: pip install -e ".[tensorflow]" in a clone of the '
            "repository, or give the same weights as .safetensors"
        ) from error
    try:
        reader = tf.compat.v1.train.NewCheckpointReader(prefix)
        names = [name for name in reader.get_variable_to_shape_map() if not _TF_BOOKKEEPING.search(name)]
        return {name.removesuffix(_TF_SUFFIX): reader.get_tensor(name) for name in names}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise ValueError(f"{prefix}: not a readable TensorFlow checkpoint ({error})") from error


def config_from_shapes(weights: Mapping[str, np.ndarray], **overrides) -> MacaronConfig:
    """Infer the architecture from the shapes of the original's variables.

    Parameters
    ----------
    weights : Mapping[str, numpy.ndarray]
        The original's variables.
    **overrides
        Config fields that do not follow from shapes (`num_expression_positions`, `gate_activation`,
        `hidden_dropout`, `expression_mean`, `expression_std`).

    Returns
    -------
    MacaronConfig

    Raises
    ------
    ValueError
        If a variable is missing, or an override is unknown or contradicts a shape.
    """
    block = "blocks/layer_with_weights-0"
    try:
        hidden_size, heads, head_dim = weights[f"{block}/attn/_query_dense/kernel"].shape
        vocab_size = weights["nucleotide_dense/kernel"].shape[1]
        fields = {
            "vocab_size": vocab_size,
            "kmer_size": weights["kmer_dense/kernel"].shape[0] // vocab_size,
            "strand_length": weights["pos_embedding/embeddings"].shape[0] // 2,
            "hidden_size": hidden_size,
            "num_hidden_layers": len({name.split("/")[1] for name in weights if name.startswith("blocks/")}),
            "num_attention_heads": heads,
            "head_dim": head_dim,
            "attention_projections": "separate",
            "intermediate_size": weights[f"{block}/ff1/net/layer_with_weights-2/kernel"].shape[0],
            "conv_kernel_size": weights[f"{block}/conv/layer_with_weights-1/depthwise_kernel"].shape[0],
            "pooling": "expression_positions" if "expression_embedding/bias" in weights else "mean",
        }
    except KeyError as error:
        raise ValueError(f"no weights of the original model: the variable {error} is missing") from error
    unknown = sorted(overrides.keys() - {field.name for field in dataclasses.fields(MacaronConfig)})
    if unknown:
        raise ValueError(f"MacaronConfig has no field {', '.join(unknown)}")
    for name, value in overrides.items():
        if fields.get(name, value) != value:
            raise ValueError(f"`{name}` is {fields[name]!r} by the shapes of the weights, not {value!r}")
    return MacaronConfig(**{**fields, **overrides})


def convert_weights(weights: Mapping[str, np.ndarray], config: MacaronConfig) -> dict[str, torch.Tensor]:
    """Convert the original's variables, or their gradients, to the names and layouts of this library.

    Parameters
    ----------
    weights : Mapping[str, numpy.ndarray]
        The original's variables.
    config : MacaronConfig
        Config of the model.

    Returns
    -------
    dict[str, torch.Tensor]
        State dict of `MacaronForExpressionPrediction`, in the dtype of the variables.

    Raises
    ------
    ValueError
        If variables are missing or unexpected.
    """
    rules = _rules(config)
    missing, unknown = sorted(rules.keys() - weights.keys()), sorted(weights.keys() - rules.keys())
    if missing or unknown:
        raise ValueError(f"the weights do not fit: missing {missing or 'none'}, unknown {unknown or 'none'}")
    return {
        rule.target: torch.from_numpy(np.ascontiguousarray(rule.layout(np.asarray(weights[name]))))
        for name, rule in rules.items()
    }


def convert_checkpoint(
    source: str | Path, output_dir: str | Path, *, overwrite: bool = False, **overrides
) -> MacaronForExpressionPrediction:
    """Convert the original's weights to a Hub folder with weights, config, tokenizer and code.

    Parameters
    ----------
    source : str or Path
        See `read_original_weights`.
    output_dir : str or Path
        Folder to write.
    overwrite : bool
        Replace an existing model folder.
    **overrides
        See `config_from_shapes`.

    Returns
    -------
    MacaronForExpressionPrediction
        The saved model, float32.

    Raises
    ------
    ValueError, ImportError, FileNotFoundError
        If the weights are not readable or do not fit, or an override is unknown or contradicts them.
    FileExistsError
        If the folder exists and may not be replaced.
    """
    inputs = (source, f"{source}.index")
    with new_folder(output_dir, overwrite=overwrite, marker="config.json", inputs=inputs) as folder:
        weights = read_original_weights(source)
        config = config_from_shapes(weights, **overrides)
        model = MacaronForExpressionPrediction(config)
        model.load_state_dict(convert_weights(weights, config))
        (folder / "README.md").write_text(_CARD.format(parameters=model.num_parameters()), encoding="utf-8")
        model.save_pretrained(folder)
        KmerTokenizer(kmer_size=config.kmer_size, strand_length=config.strand_length).save_pretrained(folder)
    return model
