"""Gene expression from promoter DNA: the Macaron Transformer of team Unlock_DNA as a Hugging Face model."""

import importlib

_MODULES = {
    "MacaronConfig": "configuration_macaron",
    "MacaronForExpressionPrediction": "modeling_macaron",
    "MacaronForMaskedLM": "modeling_macaron",
    "MacaronModel": "modeling_macaron",
    "MacaronOutput": "modeling_macaron",
    "MacaronPreTrainedModel": "modeling_macaron",
    "Predictor": "predictor",
    "PromoterExpressionPipeline": "pipeline_macaron",
}

__all__ = list(_MODULES)


def __getattr__(name: str):
    """Import a class on first access, since preparing data does not need torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the classes for completion."""
    return __all__
