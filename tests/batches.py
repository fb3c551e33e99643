"""Inputs of the tiny models."""

import torch

LENGTH = 40


def random_ids(rows, length=LENGTH, seed=0):
    return torch.randint(0, 6, (rows, length), generator=torch.Generator().manual_seed(seed))


def random_batch(rows=4, seed=0):
    """Inputs with both kinds of labels."""
    generator = torch.Generator().manual_seed(seed)
    true_ids = torch.randint(0, 4, (rows, LENGTH), generator=generator)
    masked = torch.rand(rows, LENGTH, generator=generator) < 0.2
    return {
        "input_ids": true_ids.masked_fill(masked, 5),
        "labels": torch.randn(rows, generator=generator),
        "masked_nucleotides": true_ids.masked_fill(~masked, -100),
    }
