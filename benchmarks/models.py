"""Models and batches with random numbers."""

from __future__ import annotations

import torch

from modeling_macaron import MacaronConfig, MacaronForExpressionPrediction

SIZES = {  # fields of `MacaronConfig` that differ from its defaults
    "paper": {},
    "tiny": {
        "hidden_size": 32, "head_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "num_expression_positions": 4,
    },
}  # fmt: skip


def make_model(
    size: str, attention: str = "sdpa", device: torch.device | str = "cpu", **fields
) -> MacaronForExpressionPrediction:
    """Make a float32 model of a size. Noise on its weights makes attention nonuniform."""
    torch.manual_seed(0)
    with torch.device(device), torch.no_grad():
        model = MacaronForExpressionPrediction(MacaronConfig(**{**SIZES[size], **fields}))
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.set_attn_implementation(attention)
    return model


def random_ids(rows: int, seed: int = 0) -> torch.Tensor:
    """Token ids (rows, 200) of both strands."""
    forward = torch.randint(0, 4, (rows, 100), generator=torch.Generator().manual_seed(seed))
    return torch.cat([forward, 3 - forward.flip(1)], dim=1)


def random_batch(model: MacaronForExpressionPrediction, rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make a batch like the collator's: ids and nucleotide labels (rows, 200), labels (rows,)."""
    generator = torch.Generator().manual_seed(seed)
    ids = random_ids(rows, seed)
    masked = torch.rand(ids.shape, generator=generator) < 0.05
    batch = {
        "input_ids": ids.masked_fill(masked, model.config.mask_token_id),
        "labels": torch.randn(rows, generator=generator),
        "masked_nucleotides": ids.masked_fill(~masked, -100),
    }
    return {name: values.to(model.device) for name, values in batch.items()}
