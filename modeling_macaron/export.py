"""Export a model to ONNX, and predict with the exported file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from modeling_macaron.atomic import check_free, new_file
from modeling_macaron.dna import both_strands
from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction, merging_saves
from modeling_macaron.predictor import Predictor, PredictorLike
from tokenization import TOKENIZER_SETTINGS, KmerTokenizer
from tokenization.tokenization_kmer import LETTERS, N_ID

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

TOLERANCE = 1e-4  # standard deviations of expression
CHECKED_BATCHES = (1, 7, 64)


class OnnxExport(NamedTuple):
    """Result of an export."""

    path: Path
    error: float | None  # largest difference from PyTorch in standard deviations of expression; None if unchecked
    opset: int
    num_bytes: int


class ExpressionInAssayUnits(nn.Module):
    """Map token ids (batch, 2 * strand_length) to expression (batch,) in assay units."""

    def __init__(self, model: MacaronForExpressionPrediction):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Predict without nucleotide logits."""
        config = self.model.config
        logits = self.model(input_ids, output_nucleotide_logits=False, return_dict=False)[0]
        return logits.flatten() * config.expression_std + config.expression_mean


def export_onnx(
    predictor: PredictorLike,
    output: str | Path,
    *,
    merged: bool | None = None,
    opset: int | None = None,
    overwrite: bool = False,
    check: bool = True,
) -> OnnxExport:
    """Export a model to ONNX.

    The input `input_ids` is (batch, 2 * strand_length) int64, as returned by `KmerTokenizer`. The output `expression`
    is (batch,) float32, in assay units. The nucleotide head is left out. The metadata hold the tokenizer's settings.

    Parameters
    ----------
    predictor : Predictor, str, Path or MacaronForExpressionPrediction
        A predictor, or any model that `Predictor.from_pretrained` accepts. It is not changed. Half precision is
        exported as float32.
    output : str or Path
        `.onnx` file. It appears when it is complete and checked.
    merged : bool, optional
        Merge the attention's projections, see `to_merged`. Default: only if this adds no parameters and no arithmetic.
    opset : int, optional
        Version of the ONNX operators. Default: torch's.
    overwrite : bool
        Replace an existing output.
    check : bool
        Compare ONNX Runtime with the model on 1, 7 and 64 random promoters.

    Returns
    -------
    OnnxExport

    Raises
    ------
    ValueError
        If the name of the output or the opset is invalid, or the model exceeds 2 GB.
    OSError
        If the output exists or cannot be written, or the checkpoint does not exist.
    ImportError
        If the extra `export` is not installed.
    RuntimeError
        If the export fails, or differs from PyTorch by more than 1e-4 standard deviations.
    """
    output = Path(output)
    if output.suffix != ".onnx":
        raise ValueError(f"{output}: name a file that ends in .onnx")
    check_free(output, overwrite, (predictor,))
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(f'export needs {", ".join(missing)}: pip install "macaron-promoter[export]"')
    from onnx.helper import set_model_props

    model, tokenizer = (predictor.model, predictor.tokenizer) if isinstance(predictor, Predictor) else (predictor, None)
    model = model if isinstance(model, (str, Path)) else copy.deepcopy(model)
    loaded = Predictor.from_pretrained(model, tokenizer=tokenizer, device="cpu", dtype="float32")
    model, tokenizer = loaded.model, loaded.tokenizer
    merged = merging_saves(model.config) if merged is None else merged
    proto = build_graph(model.to_merged() if merged else copy.deepcopy(model), opset)
    metadata = {name: getattr(tokenizer, name) for name in TOKENIZER_SETTINGS}
    metadata |= {name: getattr(model.config, name) for name in ("expression_mean", "expression_std", "model_type")}
    metadata["attention_projections"] = "merged" if merged else model.config.attention_projections
    metadata["letters"] = " ".join(LETTERS)
    set_model_props(proto, {name: str(value) for name, value in metadata.items()})
    with new_file(output) as partial:
        partial.write_bytes(proto.SerializeToString())
        error = largest_error(partial, model) if check else None
        if error is not None and not error <= TOLERANCE:
            raise RuntimeError(
                f"the exported graph differs from PyTorch by {error:.1e} standard deviations of expression "
                f"(allowed: {TOLERANCE:.0e}); nothing was written"
            )
        num_bytes = partial.stat().st_size
    return OnnxExport(output, error, proto.opset_import[0].version, num_bytes)


def predict_onnx(path: str | Path, sequences: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
    """Predict the expression (sequences,) float64 of DNA in assay units, with a file that `export_onnx` wrote.

    Sequences are read as by the model's tokenizer. Raises a ValueError if one is not DNA, empty or too long, or if the
    file has no tokenizer settings in its metadata.
    """
    session = open_session(path)
    about = session.get_modelmeta().custom_metadata_map
    if not set(TOKENIZER_SETTINGS) <= about.keys():
        raise ValueError(f"{path} was not written by export_onnx: it has no tokenizer settings in its metadata")
    sizes = {name: int(about[name]) for name in ("kmer_size", "strand_length")}
    tokenizer = KmerTokenizer(**sizes, **{name: about[name] for name in ("flank5", "flank3", "trimming")})
    if not len(sequences):
        return np.empty(0)
    input_ids = tokenizer(list(sequences), return_tensors="np")["input_ids"]
    starts = range(0, len(input_ids), batch_size)
    parts = [session.run(None, {"input_ids": input_ids[start : start + batch_size]})[0] for start in starts]
    return np.concatenate(parts).astype(np.float64)


def open_session(path: str | Path, num_threads: int | None = None) -> InferenceSession:
    """Load a file into ONNX Runtime on the CPU, by default with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads() if num_threads is None else num_threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def build_graph(model: MacaronForExpressionPrediction, opset: int | None = None) -> ModelProto:
    """Trace a model in evaluation mode on the CPU into an ONNX graph. The model's attention becomes eager."""
    model.set_attn_implementation("eager")
    input_ids = torch.from_numpy(both_strands(random_promoters(2, model.config.strand_length)).astype(np.int64))
    program = torch.onnx.export(
        ExpressionInAssayUnits(model).eval(),
        (input_ids,),
        input_names=["input_ids"],
        output_names=["expression"],
        dynamic_shapes={"input_ids": {0: torch.export.Dim("batch")}},
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    proto = program.model_proto
    if opset not in (None, proto.opset_import[0].version):
        raise ValueError(f"opset {opset} is not possible: torch exports {proto.opset_import[0].version}")
    # torch stores local paths and line numbers at each node.
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return proto


def largest_error(path: str | Path, model: MacaronForExpressionPrediction) -> float:
    """Largest difference from the model on random promoters, in standard deviations of expression."""
    session, expression, errors = open_session(path), ExpressionInAssayUnits(model), []
    for rows in CHECKED_BATCHES:
        input_ids = both_strands(random_promoters(rows, model.config.strand_length, seed=rows)).astype(np.int64)
        with torch.no_grad():
            expected = expression(torch.from_numpy(input_ids)).numpy()
        (got,) = session.run(["expression"], {"input_ids": input_ids})
        errors.append(np.abs(got - expected).max() / model.config.expression_std)
    return float(np.max(errors))


def random_promoters(rows: int, strand_length: int, seed: int = 0) -> np.ndarray:
    """Random forward strands (rows, strand_length) uint8, with N inside and as padding."""
    rng = np.random.default_rng(seed)
    strands = rng.integers(0, N_ID, (rows, strand_length), dtype=np.uint8)
    strands[rng.random(strands.shape) < 0.02] = N_ID
    padding = rng.integers(0, strand_length // 4 + 1, (rows, 1))
    position = np.arange(strand_length)
    strands[(position < padding) | (position >= strand_length - padding)] = N_ID
    return strands
