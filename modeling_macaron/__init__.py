"""Gene expression from promoter DNA: the Macaron Transformer of team Unlock_DNA as a Hugging Face model."""

from .configuration_macaron import MacaronConfig
from .modeling_macaron import (
    MacaronForExpressionPrediction,
    MacaronForMaskedLM,
    MacaronModel,
    MacaronOutput,
    MacaronPreTrainedModel,
)
from .pipeline_macaron import PromoterExpressionPipeline

__all__ = [
    "MacaronConfig",
    "MacaronForExpressionPrediction",
    "MacaronForMaskedLM",
    "MacaronModel",
    "MacaronOutput",
    "MacaronPreTrainedModel",
    "PromoterExpressionPipeline",
]
