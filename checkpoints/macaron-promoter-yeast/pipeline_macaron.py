"""Pipeline from promoter DNA to expression in assay units."""

from collections.abc import Generator, Iterable
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers.pipelines.base import Pipeline


class PromoterExpressionPipeline(Pipeline):
    """Predict expression from promoter DNA: `pipeline("promoter-expression", model=..., trust_remote_code=True)`.

    Takes a sequence, a dict with the key `sequence`, or a list, generator or data set of them. Returns for each a dict
    of `sequence` (str, unchanged), `expression` (float, assay units of the training data) and `standardized_expression`
    (float, standard deviations from the training mean). Models with prediction intervals add `expression_low` and
    `expression_high` (float, assay units). Models with the composition of their training rows add `unlike_training`
    (bool), see `MacaronConfig.unlike_training`.

    Parameters
    ----------
    truncation : bool, optional
        Keep the middle of a variable part that is too long, instead of raising.
    coverage : int, optional
        Coverage of the prediction intervals in percent. Default: 90.

    Raises
    ------
    ValueError
        If a sequence is not DNA, empty or too long, or the model has no interval of this coverage.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def _sanitize_parameters(
        self, truncation: bool | None = None, coverage: int | None = None
    ) -> tuple[dict, dict, dict]:
        preprocess = {} if truncation is None else {"truncation": truncation}
        return preprocess, {}, {} if coverage is None else {"coverage": coverage}

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model.eval()

    def __call__(self, inputs, **kwargs) -> Any:
        """Predict one or many sequences, `batch_size` at once. A generator or a data set gives an iterator."""
        if isinstance(inputs, (list, tuple)) and not inputs:
            return []
        known = (str, dict, list, tuple, Generator, Dataset)
        if isinstance(inputs, Iterable) and not isinstance(inputs, known):
            inputs = (row for row in inputs)
        return super().__call__(inputs, **kwargs)

    def preprocess(self, inputs: str | dict, truncation: bool = False) -> dict:
        """Tokenize one sequence: `input_ids` (1, 2 * strand_length)."""
        sequence = inputs.get("sequence") if isinstance(inputs, dict) else inputs
        if not isinstance(sequence, str):
            raise ValueError(f"expected a sequence (str) or a dict with the key 'sequence', got {inputs!r:.100}")
        encoded = self.tokenizer(sequence, truncation=truncation, return_tensors="pt")
        return {"input_ids": encoded["input_ids"], "sequence": sequence}

    def _forward(self, model_inputs: dict) -> dict:
        input_ids, config = model_inputs["input_ids"], self.model.config
        outputs = self.model(input_ids, output_nucleotide_logits=False)
        results = {"logits": outputs.logits, "sequence": model_inputs["sequence"]}
        if outputs.variance is not None:
            results["variance"] = outputs.variance
        is_unlike = config.unlike_training(input_ids[:, : config.strand_length].cpu().numpy())
        if is_unlike is not None:
            results["unlike_training"] = torch.from_numpy(is_unlike)
        return results

    def postprocess(self, model_outputs: dict, coverage: int | None = None) -> dict:
        """Convert standardized logits to assay units."""
        config = self.model.config
        found = [model_outputs[name].double().item() for name in ("logits", "variance") if name in model_outputs]
        result = {
            "sequence": model_outputs["sequence"],
            "expression": found[0] * config.expression_std + config.expression_mean,
            "standardized_expression": found[0],
        }
        interval = config.expression_interval(*found, coverage=coverage)
        if interval is not None:
            result["expression_low"], result["expression_high"] = interval
        if "unlike_training" in model_outputs:
            result["unlike_training"] = bool(model_outputs["unlike_training"])
        return result
