"""Mean cross-entropy and accuracy of prompts on a split."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer import ranks
from trainer.backbones.backbone import Backbone, HasClassEmbeddings
from trainer.backbones.stack import Stack

LOGITS = 2**24
"""Logits in memory at once."""


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

    def share(self) -> "EncodedSplit":
        """The examples that this rank evaluates; all of them without other ranks."""
        if ranks.count() == 1:
            return self
        total = len(self.targets)
        rows = torch.arange(total)[ranks.share(total)[0]]
        lengths = None if self.lengths is None else self.lengths[rows]
        return EncodedSplit(self.inputs[rows], self.targets[rows.to(self.targets.device)], lengths)


def scoring_cost(dev: EncodedSplit, train: EncodedSplit, batch_size: int, num_tokens: int) -> float:
    """Lane-steps that scoring one prompt of `num_tokens` tokens costs.

    A forward pass over the development split, where a step on a batch is a forward pass and a backward pass that costs
    two more. Passes are compared by the positions they compute; without lengths the prompt does not stand in the
    examples, and passes over any examples cost the same.
    """
    if dev.lengths is None or train.lengths is None:
        return 1 / 3
    batch = min(batch_size, len(train.targets)) * (train.lengths.double().mean() + num_tokens)
    return float((dev.lengths + num_tokens).sum() / batch / 3)


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of each lane, [lanes], from logits [lanes, examples, classes]."""
    return _example_losses(logits, targets).mean(1)


def _example_losses(logits: Tensor, targets: Tensor) -> Tensor:
    lanes = len(logits)
    return cross_entropy(logits.flatten(0, 1), targets.repeat(lanes), reduction="none").view(lanes, -1)


@torch.no_grad()
def by_example(backbone: Backbone, prompts: Stack, split: EncodedSplit) -> Tensor:
    """Loss and hit (0 or 1) of each lane on each example, [lanes, 2, examples].

    With many examples and classes the logits are made and used in parts.
    """
    lanes, rows, classes = len(prompts.prompts), len(split.targets), int(split.targets.max()) + 1
    if lanes * rows * classes <= LOGITS or not isinstance(backbone, HasClassEmbeddings):
        return losses_and_hits(backbone.logits(prompts, split.inputs), split.targets)
    vectors, size = backbone.class_embeddings(prompts), max(1, LOGITS // (lanes * classes))
    parts = torch.split(torch.arange(rows), size)
    return torch.cat(
        [losses_and_hits(backbone.classify(vectors, split.inputs[part]), split.targets[part]) for part in parts], dim=-1
    )


def losses_and_hits(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss and hit (0 or 1) on each example, [lanes, 2, examples], from logits [lanes, examples, classes]."""
    return torch.stack([_example_losses(logits, targets), (logits.argmax(-1) == targets).float()], dim=1)


@torch.no_grad()
def evaluate(logits: Tensor, targets: Tensor) -> list[EvalResult]:
    """The result of each lane from logits [lanes, examples, classes] and targets [examples].

    With several ranks, each gives the rows of its share and gets the result over all rows.
    """
    return mean_results(losses_and_hits(logits, targets))


def mean_results(each: Tensor) -> list[EvalResult]:
    """The results over the examples of all ranks, from the `losses_and_hits` of this rank's."""
    return [EvalResult(*pair) for pair in _mean(each)[0].tolist()]


def paired_difference(losses: Tensor, others: Tensor) -> tuple[float, float]:
    """Mean of `losses` minus `others`, both [examples] of this rank, over all ranks, and its standard error."""
    difference = (losses - others).cpu().double()
    (mean, square), rows = _mean(torch.stack([difference, difference.square()]))
    variance = max(0.0, (square - mean.square()).item()) / max(1, rows - 1)
    return mean.item(), variance**0.5


def _mean(each: Tensor) -> tuple[Tensor, int]:
    """The mean of `each` [..., examples] over the examples of all ranks, and how many they are."""
    means, rows = each.mean(-1), each.shape[-1]
    if ranks.count() > 1:
        total = torch.tensor([float(rows)])
        means = means.cpu() * rows
        ranks.all_reduce([means, total])
        means /= total
        rows = int(total)
    return means, rows
