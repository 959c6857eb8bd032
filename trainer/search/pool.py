"""The good lanes of a run, and the result made of them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainer.backbones.backbone import Backbone, HasClassEmbeddings
from trainer.backbones.stack import stack
from trainer.search.evaluation import EncodedSplit, EvalResult, losses_and_hits, mean_results, paired_difference
from trainer.search.lanes import Lane, Origin

SIZE = 16
"""Snapshots kept."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of a lane at an evaluation."""

    lane: int
    step: int
    """Lane-steps so far."""
    prompt: Tensor
    """[tokens, dim]"""
    head: dict[str, Tensor]
    """Its head by parameter name; empty where the backbone has none."""
    lineage: tuple[Origin, ...]
    dev: EvalResult


def snapshot(lane: Lane, lane_steps: int, dev: EvalResult) -> Snapshot:
    """A copy of `lane` now."""
    head = {name: value.detach().clone() for name, value in lane.head.items()}
    return Snapshot(lane.number, lane_steps, lane.prompt.detach().clone(), head, lane.lineage, dev)


@dataclass(frozen=True)
class Tuned:
    """What labels examples: a prompt with its head, or the class embeddings of one or several prompts."""

    prompt: Tensor
    """[tokens, dim], of the best snapshot."""
    head: dict[str, Tensor]
    """Its head by parameter name; empty where the backbone has none."""
    class_embeddings: Tensor | None
    """[classes, dim], unit length; None where the backbone has none."""

    @torch.no_grad()
    def logits(self, backbone: Backbone, examples: Any) -> Tensor:
        """Class scores [examples, classes] of encoded examples."""
        if self.class_embeddings is not None and isinstance(backbone, HasClassEmbeddings):
            return backbone.classify(self.class_embeddings[None], examples)[0]
        return backbone.logits(stack([self.prompt], [self.head]), examples)[0]


@dataclass(frozen=True)
class TuningResult:
    """What a run found: one snapshot, or several whose class embeddings are averaged."""

    members: list[Snapshot]
    """Best first."""
    tuned: Tuned
    dev: EvalResult

    @property
    def kind(self) -> str:
        """The best lane, or the mean of several."""
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

    def result(self, backbone: Backbone, dev: EncodedSplit, average: bool) -> TuningResult:
        """The best snapshot, or where class embeddings can be averaged, the mean of several."""
        if isinstance(backbone, HasClassEmbeddings):
            return self._mean(backbone, dev, average)
        best = self.snapshots[0]
        return TuningResult([best], Tuned(best.prompt, best.head, None), best.dev)

    @torch.no_grad()
    def _mean(self, backbone: HasClassEmbeddings, dev: EncodedSplit, average: bool) -> TuningResult:
        """The best snapshot, joined by each next one unless the development rows speak against it.

        The greedy soup of Wortsman et al. (2022), on class embeddings instead of weights, and on few rows: the mean's
        loss may be above the lowest so far by one standard error of the difference, because means generalise better.
        """
        snapshots = self.snapshots if average else self.snapshots[:1]
        vectors = backbone.class_embeddings(stack([snapshot.prompt for snapshot in snapshots]))

        def measure(total: Tensor) -> Tensor:
            return losses_and_hits(backbone.classify(normalize(total, dim=-1)[None], dev.inputs), dev.targets)

        best = snapshots[0]
        members, total = [best], vectors[0]
        measured = lowest = measure(total)
        for snapshot, vector in zip(snapshots[1:], vectors[1:], strict=True):
            joined = measure(total + vector)
            difference, error = paired_difference(joined[0, 0], lowest[0, 0])
            if difference <= error:
                members, total, measured = [*members, snapshot], total + vector, joined
                lowest = joined if difference < 0 else lowest
        tuned = Tuned(best.prompt, best.head, normalize(total, dim=-1))
        return TuningResult(members, tuned, best.dev if len(members) == 1 else mean_results(measured)[0])
