"""The good prompts of a run, and the result made of them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainer.backbones.dual_encoder import DualEncoder
from trainer.fitness import Examples, Fitness, fitness
from trainer.lanes import Origin, stack

SIZE = 32
"""Snapshots kept."""

TOLERANCE = 0.02
"""Part of the development loss. A mean of unlike prompts varies less than any one of them, and a split of a few
dozen examples cannot tell losses so near each other apart."""


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
    """The best snapshot of each lane and of each measured candidate, by development loss."""

    def __init__(self, snapshots: list[Snapshot] | None = None) -> None:
        self.snapshots = snapshots or []
        """Best first."""

    def add(self, snapshot: Snapshot) -> None:
        """Keep `snapshot` if its lane was never better, and it is among the best."""
        others = [kept for kept in self.snapshots if kept.lane is None or kept.lane != snapshot.lane]
        same = [kept for kept in self.snapshots if kept.lane is not None and kept.lane == snapshot.lane]
        self.snapshots = sorted([*others, min([*same, snapshot], key=_loss)], key=_loss)[:SIZE]

    @torch.no_grad()
    def result(self, backbone: DualEncoder, dev: Examples, average: bool) -> Result:
        """The best snapshot, joined one by one by the next best that the development split accepts.

        The greedy soup of Wortsman et al. (2022), on class vectors instead of weights. One that does not
        change the mean's loss by more than `TOLERANCE` is accepted too.
        """
        vectors = backbone.class_vectors(stack([snapshot.prompt for snapshot in self.snapshots]))
        members, total, found = [self.snapshots[0]], vectors[0], self.snapshots[0].dev
        lowest = found.loss
        for snapshot, vector in zip(self.snapshots[1:], vectors[1:], strict=True) if average else ():
            joined = fitness(backbone.classify(normalize(total + vector, dim=-1)[None], dev.inputs), dev.targets)[0]
            if joined.loss <= lowest * (1 + TOLERANCE):
                members, total, found = [*members, snapshot], total + vector, joined
                lowest = min(lowest, joined.loss)
        return Result(members, normalize(total, dim=-1), found)


def _loss(snapshot: Snapshot) -> float:
    return snapshot.dev.loss
