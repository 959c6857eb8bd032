"""What the gradients did lately, and the digest of it that proposers read."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bus.messages import CandidateOutcome, Digest, Measured, Point, Slope, Substitution
from shared.settings import Settings
from shared.subsampling import subsample
from trainer.backbones.vocabulary import Vocabulary
from trainer.search.evaluation import EvalResult

RECENT = 20
"""Steps that the slope is fitted to."""
POINTS = 10
"""Points of the trajectory in a digest."""
BEST = 16
"""Measured prompts in a digest."""
FATES = 16
"""Fates in a digest."""
PUSHES = 256
"""Positions whose push a digest tells; prompts of one class each have more than a message takes."""
TOWARD = 12
"""Words for each position's push."""
LONGEST_WORDS = 2_000
"""Characters of a point's words; the rest of a very long prompt is left out, as a message takes no more."""


@dataclass
class Trajectory:
    """The incumbent's way so far, and every prompt in words that was measured."""

    points: list[Point] = field(default_factory=list)
    measured: dict[str, Measured] = field(default_factory=dict)
    """By words; the best are told to proposers."""
    outcomes: list[CandidateOutcome] = field(default_factory=list)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    """The incumbent's training losses of the last steps."""
    since_point: list[float] = field(default_factory=list)
    """Its training losses since the last point."""
    digests: int = 0

    def step(self, train_loss: float) -> None:
        """Note the incumbent's training loss of one step."""
        self.recent.append(train_loss)
        self.since_point.append(train_loss)

    def evaluated(
        self, lane_steps: int, prompt: Tensor, dev: EvalResult, vocabulary: Vocabulary, settings: Settings
    ) -> Point:
        """Add a point for the incumbent's `prompt` [tokens, dim] after `lane_steps` lane-steps."""
        words, nearness = vocabulary.nearest(prompt.detach(), settings.prompt.projection)
        mean = sum(self.since_point) / len(self.since_point) if self.since_point else None
        point = Point(
            step=lane_steps,
            words=" ".join(words)[:LONGEST_WORDS],
            cosine=nearness,
            train_loss=mean,
            dev_loss=dev.loss,
            dev_accuracy=dev.accuracy,
        )
        self.points.append(point)
        self.since_point.clear()
        return point

    def measure(self, words: str, dev: EvalResult) -> None:
        """Remember what the development split says of a prompt in words."""
        self.measured[words] = Measured(words=words, loss=dev.loss, accuracy=dev.accuracy)

    def restarted(self) -> None:
        """Forget the old incumbent's recent losses: the slope speaks of the one that trains now."""
        self.recent.clear()
        self.since_point.clear()

    @property
    def since_lowest(self) -> int:
        """Points after the one with the lowest development loss, the first of them if there are several."""
        losses = [point.dev_loss for point in self.points]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0

    def slope(self) -> float:
        """Least-squares slope of the recent training losses, per step."""
        if len(self.recent) < 2:
            return 0.0
        steps = torch.arange(len(self.recent), dtype=torch.float64)
        losses = torch.tensor(list(self.recent), dtype=torch.float64)
        steps -= steps.mean()
        return float((steps @ losses) / (steps @ steps))

    def digest(
        self,
        run: str,
        lane_steps: int,
        prompt: Tensor,
        gradient: Tensor | None,
        labels: list[str],
        vocabulary: Vocabulary,
        settings: Settings,
    ) -> Digest:
        """A digest of the moment; `prompt` and `gradient` (of the last step) are the incumbent's, [tokens, dim]."""
        self.digests += 1
        return Digest(
            run=run,
            sequence=self.digests,
            step=lane_steps,
            budget=settings.steps,
            task=settings.task.description,
            labels=labels,
            num_tokens=settings.prompt.num_tokens,
            num_candidates=settings.restarts.candidates,
            trajectory=subsample(self.points, POINTS),
            substitutions=[] if gradient is None else _pushes(prompt, gradient, vocabulary, settings),
            slope=self._slope(gradient, settings) if gradient is not None and self.recent else None,
            best=sorted(self.measured.values(), key=lambda entry: entry.loss)[:BEST],
            outcomes=self.outcomes[-FATES:],
        )

    def _slope(self, gradient: Tensor, settings: Settings) -> Slope:
        plateau = self.since_lowest >= max(1, settings.restarts.patience)
        return Slope(loss_per_step=self.slope(), gradient_norm=gradient.norm().item(), plateau=plateau)

    def state_dict(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "points": [point.model_dump() for point in self.points],
            "measured": [entry.model_dump() for entry in self.measured.values()],
            "outcomes": [fate.model_dump() for fate in self.outcomes],
            "recent": list(self.recent),
            "since_point": self.since_point,
            "digests": self.digests,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Trajectory":
        """The trajectory that `state` was taken of."""
        return cls(
            points=[Point.model_validate(entry) for entry in state["points"]],
            measured={entry["words"]: Measured.model_validate(entry) for entry in state["measured"]},
            outcomes=[CandidateOutcome.model_validate(entry) for entry in state["outcomes"]],
            recent=deque(state["recent"], maxlen=RECENT),
            since_point=state["since_point"],
            digests=state["digests"],
        )


def _pushes(prompt: Tensor, gradient: Tensor, vocabulary: Vocabulary, settings: Settings) -> list[Substitution]:
    now, _ = vocabulary.nearest(prompt.detach()[:PUSHES], settings.prompt.projection)
    toward = vocabulary.hotflip_candidates(gradient[:PUSHES], TOWARD)
    return [
        Substitution(position=position, word=word, replacements=words)
        for position, (word, words) in enumerate(zip(now, toward, strict=True))
    ]
