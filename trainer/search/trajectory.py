"""The incumbent's trajectory: its points, its recent losses, and every prompt in words that was measured."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bus.messages import CandidateOutcome, Measured, Point
from shared.settings import Projection
from trainer.backbones.vocabulary import Vocabulary
from trainer.search.evaluation import EvalResult
from trainer.search.events import CandidatesPassedOver, Event, TrialJudged

MAX_KEPT = 1_000
"""Measured prompts, the best, and outcomes, the latest; more than any digest shows."""
RECENT = 20
"""Steps that the slope is fitted to."""
MAX_WORDS = 2_000
"""Characters of a point's words; a message takes no more, so the rest of a very long prompt is left out."""


@dataclass
class Trajectory:
    """What proposers read, in a digest, and what says whether the incumbent still improves."""

    points: list[Point] = field(default_factory=list)
    measured: dict[str, Measured] = field(default_factory=dict)
    """By words; the best `MAX_KEPT`."""
    outcomes: list[CandidateOutcome] = field(default_factory=list)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    """The incumbent's training losses of the last steps."""
    since_point: list[float] = field(default_factory=list)
    """Its training losses since the last point."""
    digests: int = 0
    """Digests made so far."""

    def __call__(self, event: Event) -> None:
        """Note what became of candidates."""
        match event:
            case TrialJudged(outcome=outcome):
                self.outcomes.append(outcome)
            case CandidatesPassedOver(outcomes=outcomes):
                self.outcomes += outcomes
        del self.outcomes[:-MAX_KEPT]

    def step(self, train_loss: float) -> None:
        """Note the incumbent's training loss of one step."""
        self.recent.append(train_loss)
        self.since_point.append(train_loss)

    def evaluated(
        self, lane_steps: int, prompt: Tensor, dev: EvalResult, vocabulary: Vocabulary, projection: Projection
    ) -> Point:
        """Add a point for the incumbent's `prompt` [tokens, dim] after `lane_steps` lane-steps."""
        words, nearness = vocabulary.nearest(prompt.detach(), projection)
        mean = sum(self.since_point) / len(self.since_point) if self.since_point else None
        point = Point(
            step=lane_steps,
            words=" ".join(words)[:MAX_WORDS],
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
        if len(self.measured) > MAX_KEPT:
            del self.measured[max(self.measured.values(), key=lambda entry: entry.loss).words]

    def restarted(self) -> None:
        """Forget the old incumbent's recent losses: the slope is that of the one that trains now."""
        self.recent.clear()
        self.since_point.clear()

    def is_plateau(self, patience: int) -> bool:
        """Whether the last `patience` evaluations (at least one) brought no lower development loss."""
        losses = [point.dev_loss for point in self.points]
        return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= max(1, patience)

    def slope(self) -> float:
        """Least-squares slope of the recent training losses, per step."""
        if len(self.recent) < 2:
            return 0.0
        steps = torch.arange(len(self.recent), dtype=torch.float64)
        losses = torch.tensor(list(self.recent), dtype=torch.float64)
        steps -= steps.mean()
        return float((steps @ losses) / (steps @ steps))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint saves, as JSON."""
        return {
            "points": [point.model_dump() for point in self.points],
            "measured": [entry.model_dump() for entry in self.measured.values()],
            "outcomes": [outcome.model_dump() for outcome in self.outcomes],
            "recent": list(self.recent),
            "since_point": self.since_point,
            "digests": self.digests,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Trajectory":
        """The trajectory whose `state_dict` is `state`."""
        return cls(
            points=[Point.model_validate(entry) for entry in state["points"]],
            measured={entry["words"]: Measured.model_validate(entry) for entry in state["measured"]},
            outcomes=[CandidateOutcome.model_validate(entry) for entry in state["outcomes"]],
            recent=deque(state["recent"], maxlen=RECENT),
            since_point=state["since_point"],
            digests=state["digests"],
        )
