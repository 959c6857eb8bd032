"""The good prompts of a run, and the result made of them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainer.backbones.dual_encoder import DualEncoder
from trainer.fitness import Examples, Fitness, fitness
from trainer.lanes import Origin, stack

SIZE = 32
"""Snapshots kept; the mean of class vectors rarely takes more than a handful."""


@dataclass(frozen=True)
class Snapshot:
    """A prompt as it was when the development split was measured."""

    lane: int | None
    """None for a candidate's words, which no lane trained."""
    step: int
    """Lane-steps spent."""
    prompt: Tensor
    """[tokens, dim]"""
    lineage: tuple[Origin, ...]
    dev: Fitness


@dataclass(frozen=True)
class Result:
    """What a run found: one snapshot, or several whose class vectors are averaged."""

    members: list[Snapshot]
    """Best first."""
    class_vectors: Tensor
    """[classes, dim], unit length."""
    dev: Fitness

    @property
    def kind(self) -> str:
        """Best prompt, or the mean of how many."""
        return "best prompt" if len(self.members) == 1 else f"mean of {len(self.members)} prompts"


class Pool:
    """The best snapshots, by development loss."""

    def __init__(self, snapshots: list[Snapshot] | None = None) -> None:
        self.snapshots = snapshots or []

    def add(self, snapshot: Snapshot) -> None:
        """Keep `snapshot` if it is among the best."""
        self.snapshots = sorted([*self.snapshots, snapshot], key=lambda kept: kept.dev.loss)[:SIZE]

    @torch.no_grad()
    def result(self, backbone: DualEncoder, dev: Examples, average: bool) -> Result:
        """The best snapshot, joined greedily by each next one that lowers the mean's development loss.

        The greedy soup of Wortsman et al. (2022), on class vectors instead of weights.
        """
        vectors = backbone.class_vectors(stack([snapshot.prompt for snapshot in self.snapshots]))
        members, total, best = [self.snapshots[0]], vectors[0], self.snapshots[0].dev
        for snapshot, vector in zip(self.snapshots[1:], vectors[1:], strict=True) if average else ():
            joined = fitness(backbone.classify(normalize(total + vector, dim=-1)[None], dev.inputs), dev.targets)[0]
            if joined.loss < best.loss:
                members, total, best = [*members, snapshot], total + vector, joined
        return Result(members, normalize(total, dim=-1), best)
