"""Which examples a step sees: shuffled anew each epoch, a function of seed and step alone."""

from functools import lru_cache

import torch
from torch import Tensor


def batch_rows(step: int, size: int, examples: int, seed: int) -> Tensor:
    """Rows [at most `size`] of the batch of step `step`, counted from 0; the last of an epoch may be shorter."""
    steps = -(-examples // size)
    start = step % steps * size
    return _order(step // steps, examples, seed)[start : start + size]


@lru_cache(maxsize=2)
def _order(epoch: int, examples: int, seed: int) -> Tensor:
    return torch.randperm(examples, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
