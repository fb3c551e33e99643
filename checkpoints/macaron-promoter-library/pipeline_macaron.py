"""Pipeline from promoter DNA to expression in assay units."""

from collections.abc import Generator, Iterable
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers.pipelines.base import Pipeline


class PromoterExpressionPipeline(Pipeline):
    """Predict expression from promoter DNA: `pipeline("promoter-expression", model=..., trust_remote_code=True)`.

    Takes a sequence, a dict with the key `sequence`, or a list, a generator or a data set of either. Gives for each a
    dict of `sequence` (str, as it came in), `expression` (float, assay units of the training data) and
    `standardized_expression` (float, in standard deviations from the training mean), and where the model has prediction
    intervals, `expression_low` and `expression_high` (float, assay units). Where the model knows the composition of its
    training rows, `unlike_training` (bool) says that the sequence has another; see `MacaronConfig.unlike_training`.

    Parameters
    ----------
    truncation : bool, optional
        Keep the middle of a variable part that is too long, instead of raising.
    coverage : int, optional
        Percent of the measurements that an interval holds. Default: 90.

    Raises
    ------
    ValueError
        On a sequence that is no DNA, empty or too long, on an input of another kind, and if the model has no interval
        of this coverage.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def _sanitize_parameters(
        self, truncation: bool | None = None, coverage: int | None = None
    ) -> tuple[dict, dict, dict]:
        preprocess = {} if truncation is None else {"truncation": truncation}
        return preprocess, {}, ({} if coverage is None else {"coverage": coverage})

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model.eval()

    def __call__(self, inputs, **kwargs) -> Any:
        """Predict one or many sequences; `batch_size` says how many go through the model at once.

        A list gives a list; a generator, a data set or a column of one gives an iterator.
        """
        if isinstance(inputs, (list, tuple)) and not inputs:
            return []
        known = (str, dict, list, tuple, Generator, Dataset)
        if isinstance(inputs, Iterable) and not isinstance(inputs, known):
            inputs = (row for row in inputs)
        return super().__call__(inputs, **kwargs)

    def preprocess(self, inputs: str | dict, truncation: bool = False) -> dict:
        """Tokenize one sequence: `input_ids` (1, 2 * strand_length)."""
        if isinstance(inputs, dict):
            if "sequence" not in inputs:
                raise ValueError(f"a dict needs the key 'sequence'; it has {sorted(map(str, inputs))}")
            inputs = inputs["sequence"]
        if not isinstance(inputs, str):
            raise ValueError(
                f"expected a sequence (str) or a dict with the key 'sequence', got {type(inputs).__name__}"
            )
        encoded = self.tokenizer(inputs, truncation=truncation, return_tensors="pt")
        return {"input_ids": encoded["input_ids"], "sequence": inputs}

    def _forward(self, model_inputs: dict) -> dict:
        outputs = self.model(model_inputs["input_ids"], output_nucleotide_logits=False)
        variance = {} if outputs.variance is None else {"variance": outputs.variance}
        forward = model_inputs["input_ids"][:, : self.model.config.strand_length].cpu().numpy()
        is_unlike = self.model.config.unlike_training(forward)
        unlike = {} if is_unlike is None else {"unlike_training": torch.from_numpy(is_unlike)}
        return {"logits": outputs.logits, **variance, **unlike, "sequence": model_inputs["sequence"]}

    def postprocess(self, model_outputs: dict, coverage: int | None = None) -> dict:
        """Go back from standardized logits to assay units."""
        found = [model_outputs[name].double().item() for name in ("logits", "variance") if name in model_outputs]
        standardized, config = found[0], self.model.config
        interval = config.expression_interval(*found, coverage=coverage)
        unlike = {name: bool(value) for name, value in model_outputs.items() if name == "unlike_training"}
        return {
            "sequence": model_outputs["sequence"],
            "expression": standardized * config.expression_std + config.expression_mean,
            "standardized_expression": standardized,
            **({} if interval is None else dict(zip(("expression_low", "expression_high"), interval, strict=True))),
            **unlike,
        }


__all__ = ["PromoterExpressionPipeline"]
