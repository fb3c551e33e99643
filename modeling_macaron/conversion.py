"""Convert weights of the original TensorFlow implementation to a Hugging Face model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors.numpy import load_file

from modeling_macaron.atomic import new_folder
from tokenization import KmerTokenizer

from .configuration_macaron import MacaronConfig
from .modeling_macaron import MacaronForExpressionPrediction

_TF_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_TF_BOOKKEEPING = re.compile(r"\.OPTIMIZER_SLOT/|^optimizer/|^_CHECKPOINTABLE_OBJECT_GRAPH$|^save_counter|^metrics/")

_ORIGIN = "Converted weights of the original TensorFlow implementation of team Unlock_DNA (Proformer)."

# Patterns of original names and their replacements, applied in this order.
_RENAMES = (
    (r"^blocks/layer_with_weights-(\d+)/", r"macaron.layers.\1."),
    (r"\.ff([12])/net/layer_with_weights-0/", r".feed_forward\1.layer_norm."),
    (r"\.ff([12])/net/layer_with_weights-1/", r".feed_forward\1.up_proj."),
    (r"\.ff([12])/net/layer_with_weights-2/", r".feed_forward\1.down_proj."),
    (r"\.conv/layer_with_weights-0/", ".convolution.layer_norm."),
    (r"\.conv/layer_with_weights-1/depthwise_kernel$", ".convolution.depthwise_conv.weight"),
    (r"\.conv/layer_with_weights-1/pointwise_kernel$", ".convolution.pointwise_conv.weight"),
    (r"\.conv/layer_with_weights-1/bias$", ".convolution.pointwise_conv.bias"),
    (r"\.layernorm/", ".layer_norm."),
    (r"\.attn/_([qkvo])[a-z]+_dense/", r".self_attn.\1_proj."),
    (r"^kmer_dense/", "macaron.embeddings.kmer_projection."),
    (r"^pos_embedding/embeddings$", "macaron.embeddings.position_embeddings.weight"),
    (r"^strand_embedding/embeddings$", "macaron.embeddings.strand_embeddings.weight"),
    (r"^expression_embedding/", "macaron.embeddings.expression_projection."),
    (r"^(expression|nucleotide)_dense/", r"\1_head."),
    (r"\.(kernel|gamma)$", ".weight"),
    (r"\.beta$", ".bias"),
)


def _to_torch_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Convert a variable of the original from Keras' layout to PyTorch's."""
    if name.endswith("/depthwise_kernel"):  # (width, hidden, 1) to (hidden, 1, width)
        return array.transpose(1, 2, 0)
    if re.search(r"/_(query|key|value)_dense/kernel$", name):  # (hidden, heads, head_dim) to (heads * head_dim, hidden)
        return array.reshape(len(array), -1).T
    if name.endswith("kernel"):  # (..., outputs) to (outputs, inputs)
        return array.reshape(-1, array.shape[-1]).T
    return array.ravel() if name.endswith("/bias") else array  # biases of heads are (heads, head_dim)


def read_original_weights(source: str | Path) -> dict[str, np.ndarray]:
    """Read the variables of the original by name, without optimizer state.

    `source` is a `.safetensors` file, or the prefix of a TensorFlow checkpoint (`PREFIX.index`; needs TensorFlow).
    """
    if str(source).endswith(".safetensors"):
        return load_file(source)
    if not Path(f"{source}.index").is_file():
        raise FileNotFoundError(f"{source} is neither a .safetensors file nor a prefix: {source}.index is missing")
    try:
        import tensorflow
    except ImportError as error:
        raise ImportError(
            'TensorFlow is missing: pip install -e ".[tensorflow]" in a clone of this repository'
        ) from error
    reader = tensorflow.compat.v1.train.NewCheckpointReader(str(source))
    names = [name for name in reader.get_variable_to_shape_map() if not _TF_BOOKKEEPING.search(name)]
    return {name.removesuffix(_TF_SUFFIX): reader.get_tensor(name) for name in names}


def config_from_shapes(weights: Mapping[str, np.ndarray], **overrides) -> MacaronConfig:
    """Infer the architecture from the shapes of the original's variables.

    `overrides` are config fields that do not follow from shapes: `num_expression_positions`, `gate_activation`,
    `hidden_dropout`, `expression_mean`, `expression_std`.
    """
    unknown = sorted(overrides.keys() - {field.name for field in dataclasses.fields(MacaronConfig)})
    if unknown:
        raise ValueError(f"MacaronConfig has no field {', '.join(unknown)}")
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
            "intermediate_size": weights[f"{block}/ff1/net/layer_with_weights-2/kernel"].shape[0],
            "conv_kernel_size": weights[f"{block}/conv/layer_with_weights-1/depthwise_kernel"].shape[0],
            "pooling": "expression_positions" if "expression_embedding/bias" in weights else "mean",
        }
    except KeyError as error:
        raise ValueError(f"not the weights of the original model: the variable {error} is missing") from error
    return MacaronConfig(**{**fields, **overrides})


def convert_weights(weights: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Convert the original's variables, or their gradients, to a state dict of `MacaronForExpressionPrediction`."""
    state = {}
    for source, array in weights.items():
        name = source
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = torch.from_numpy(np.ascontiguousarray(_to_torch_layout(source, array)))
    return state


def convert_checkpoint(
    source: str | Path, output_dir: str | Path, *, overwrite: bool = False, **overrides
) -> MacaronForExpressionPrediction:
    """Convert the original's weights to a Hub folder with weights, config, tokenizer and code.

    Parameters
    ----------
    source : str or Path
        A `.safetensors` file with the original's variables, or the prefix of a TensorFlow checkpoint.
    output_dir : str or Path
        Folder to write.
    overwrite : bool
        Replace an existing model folder.
    **overrides
        Config fields that do not follow from shapes: `num_expression_positions`, `gate_activation`, `hidden_dropout`,
        `expression_mean`, `expression_std`.

    Returns
    -------
    MacaronForExpressionPrediction
        The saved model, float32.

    Raises
    ------
    ValueError
        If variables are missing or unexpected, or a config field is unknown or does not fit them.
    OSError
        If the source does not exist, or the folder exists and may not be replaced.
    """
    with new_folder(
        output_dir, overwrite=overwrite, marker="config.json", inputs=(source, f"{source}.index")
    ) as folder:
        weights = read_original_weights(source)
        config = config_from_shapes(weights, **overrides)
        model = MacaronForExpressionPrediction(config)
        try:
            model.load_state_dict(convert_weights(weights))
        except RuntimeError as error:
            raise ValueError(f"the weights do not fit: {' '.join(str(error).split())[:500]}") from error
        tags = ["promoter", "gene-expression", "macaron"]
        about = ModelCardData(license="apache-2.0", library_name="transformers", tags=tags).to_yaml()
        ModelCard(f"---\n{about}\n---\n\n# Macaron promoter model\n\n{_ORIGIN}\n").save(folder / "README.md")
        model.save_pretrained(folder)
        KmerTokenizer(kmer_size=config.kmer_size, strand_length=config.strand_length).save_pretrained(folder)
    return model
