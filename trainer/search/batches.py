"""Which examples a step sees: shuffled anew each epoch, a function of seed and step alone."""

from functools import lru_cache

import torch
from torch import Tensor

JITTER = 0.05
"""Lengths are blurred by up to this share of their mean, so that no epoch meets the batches of the one before."""


def batch_indices(step: int, size: int, examples: int, seed: int, lengths: Tensor | None = None) -> Tensor:
    """Rows [at most `size`] of the batch of step `step`, counted from 0; one batch of an epoch may be shorter.

    With `lengths` [examples] a batch holds rows of similar length, and the order of the batches is shuffled.
    """
    steps = -(-examples // size)
    return _batches(step // steps, size, examples, seed, lengths)[step % steps]


@lru_cache(maxsize=2)
def _batches(epoch: int, size: int, examples: int, seed: int, lengths: Tensor | None) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    if lengths is None:
        return torch.split(torch.randperm(examples, generator=generator), size)
    blurred = lengths + JITTER * lengths.float().mean() * (2 * torch.rand(examples, generator=generator) - 1)
    sizes = torch.full((-(-examples // size),), size)
    sizes[torch.randint(len(sizes), (), generator=generator)] -= int(sizes.sum()) - examples  # short at any length
    batches = torch.split(blurred.argsort(), sizes.tolist())
    return tuple(batches[index] for index in torch.randperm(len(batches), generator=generator))
