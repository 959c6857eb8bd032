"""How good prompts are: mean cross-entropy and accuracy on a split."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True)
class EvalResult:
    """Mean cross-entropy in nats and accuracy from 0 to 1."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class EncodedSplit:
    """A split as the backbone reads it, with its classes [examples]."""

    inputs: Any
    """The backbone's `Rows`."""
    targets: Tensor
    lengths: Tensor | None = None
    """Tokens of each, where batches of similar length save work."""


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of each lane, [lanes], from logits [lanes, examples, classes]."""
    lanes = len(logits)
    each = cross_entropy(logits.flatten(0, 1), targets.repeat(lanes), reduction="none")
    return each.view(lanes, -1).mean(1)


@torch.no_grad()
def evaluate(logits: Tensor, targets: Tensor) -> list[EvalResult]:
    """The fitness of each lane from logits [lanes, examples, classes]."""
    hits = (logits.argmax(-1) == targets).float().mean(1)
    return [EvalResult(*pair) for pair in zip(losses(logits, targets).tolist(), hits.tolist(), strict=True)]
