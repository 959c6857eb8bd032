"""Mean cross-entropy and accuracy of prompts on a split."""

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
    """A split as the backbone reads it, with its classes."""

    inputs: Any
    """The backbone's `EncodedExamples`."""
    targets: Tensor
    """[examples], int64."""
    lengths: Tensor | None = None
    """Tokens of each example, [examples], where batches of similar length save work."""


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of each lane, [lanes], from logits [lanes, examples, classes]."""
    lanes = len(logits)
    each = cross_entropy(logits.flatten(0, 1), targets.repeat(lanes), reduction="none")
    return each.view(lanes, -1).mean(1)


@torch.no_grad()
def evaluate(logits: Tensor, targets: Tensor) -> list[EvalResult]:
    """The result of each lane from logits [lanes, examples, classes] and targets [examples]."""
    hits = (logits.argmax(-1) == targets).float().mean(1)
    return [EvalResult(*pair) for pair in zip(losses(logits, targets).tolist(), hits.tolist(), strict=True)]
