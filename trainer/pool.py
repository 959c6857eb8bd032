"""The good lanes of a run, and the result made of them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainer.backbones.dual_encoder import DualEncoder
from trainer.fitness import Examples, Fitness, fitness
from trainer.lanes import Origin, stack

SIZE = 16
"""Snapshots kept."""


@dataclass(frozen=True)
class Snapshot:
    """A lane as it was when the development split was measured."""

    lane: int
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
        """Best lane, or the mean of how many."""
        return "best lane" if len(self.members) == 1 else f"mean of {len(self.members)} lanes"


class Pool:
    """The best snapshot of each lane, by development loss."""

    def __init__(self, snapshots: list[Snapshot] | None = None) -> None:
        self.snapshots = snapshots or []
        """Best first."""

    def add(self, snapshot: Snapshot) -> None:
        """Keep `snapshot` if its lane was never better, and it is among the best."""
        best = {kept.lane: kept for kept in self.snapshots}
        if snapshot.lane not in best or snapshot.dev.loss < best[snapshot.lane].dev.loss:
            best[snapshot.lane] = snapshot
        self.snapshots = sorted(best.values(), key=lambda kept: kept.dev.loss)[:SIZE]

    @torch.no_grad()
    def result(self, backbone: DualEncoder, dev: Examples, average: bool) -> Result:
        """The best snapshot, joined greedily by each next one that lowers the mean's development loss.

        The greedy soup of Wortsman et al. (2022), on class vectors instead of weights.
        """
        vectors = backbone.class_vectors(stack([snapshot.prompt for snapshot in self.snapshots]))
        members, total, lowest = [self.snapshots[0]], vectors[0], self.snapshots[0].dev
        for snapshot, vector in zip(self.snapshots[1:], vectors[1:], strict=True) if average else ():
            joined = fitness(backbone.classify(normalize(total + vector, dim=-1)[None], dev.inputs), dev.targets)[0]
            if joined.loss < lowest.loss:
                members, total, lowest = [*members, snapshot], total + vector, joined
        return Result(members, normalize(total, dim=-1), lowest)
