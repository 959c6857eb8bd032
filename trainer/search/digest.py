"""The digest: the gradient trajectory in a few KiB of words and numbers, which proposers read."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from torch import Tensor

from bus.messages import CandidateOutcome, Digest, Measured, Point, Slope, Substitution
from shared.settings import PromptSettings, RestartSettings
from shared.subsampling import subsample
from trainer.backbones.vocabulary import Vocabulary
from trainer.search.opening import opening_digest
from trainer.search.trajectory import Trajectory

POINTS = 10
"""Points of the trajectory in a digest."""
BEST = 16
"""Measured prompts in a digest."""
OUTCOMES = 16
"""Outcomes of earlier candidates in a digest."""
MAX_POSITIONS = 256
"""Positions whose gradient a digest holds; prompts of one class each have more than a message takes."""
SUBSTITUTIONS = 12
"""Words for each position."""
MAX_WORD = 200
"""Characters of a word."""


Entry = TypeVar("Entry", Point, Measured, CandidateOutcome)


@dataclass(frozen=True)
class DigestWriter:
    """Makes the digests of one run; text that a message cannot hold is cut."""

    run: str
    """Identifies the run to proposers."""
    task: str
    """The task's description."""
    labels: list[str]
    budget: int
    """Lane-steps of the whole run."""
    vocabulary: Vocabulary
    prompt: PromptSettings
    restarts: RestartSettings

    def write(self, trajectory: Trajectory, lane_steps: int, prompt: Tensor, gradient: Tensor | None) -> Digest:
        """A digest of now; `prompt` and `gradient` (of the last step) are the incumbent's, [tokens, dim]."""
        bare = self.opening(trajectory).model_copy(update={"step": lane_steps})
        if self.restarts.digest == "blind":  # a control: nothing of the run but how far it is
            return bare
        known = {
            "trajectory": subsample(trajectory.points, POINTS),
            "substitutions": [] if gradient is None else self._substitutions(prompt, gradient),
            "slope": self._slope(trajectory, gradient) if gradient is not None and trajectory.recent else None,
            "best": sorted(trajectory.measured.values(), key=lambda entry: entry.loss)[:BEST],
            "outcomes": trajectory.outcomes[-OUTCOMES:],
        }
        digest = bare.model_copy(update=known)
        return shuffled(digest) if self.restarts.digest == "shuffled" else digest

    def opening(self, trajectory: Trajectory) -> Digest:
        """A digest before the first step of a run from noise, of which words cannot say anything."""
        trajectory.digests += 1
        digest = opening_digest(self.run, self.task, self.labels, self.budget, self.prompt, self.restarts)
        return digest.model_copy(update={"sequence": trajectory.digests})

    def _slope(self, trajectory: Trajectory, gradient: Tensor) -> Slope:
        plateau = trajectory.is_plateau(self.restarts.patience)
        return Slope(loss_per_step=trajectory.slope(), gradient_norm=gradient.norm().item(), plateau=plateau)

    def _substitutions(self, prompt: Tensor, gradient: Tensor) -> list[Substitution]:
        now, _ = self.vocabulary.nearest(prompt.detach()[:MAX_POSITIONS], self.prompt.projection)
        replacements = self.vocabulary.hotflip_candidates(gradient[:MAX_POSITIONS], SUBSTITUTIONS)
        return [
            Substitution(position=position, word=word[:MAX_WORD], replacements=[one[:MAX_WORD] for one in words])
            for position, (word, words) in enumerate(zip(now, replacements, strict=True))
        ]


def shuffled(digest: Digest) -> Digest:
    """A control: each point, measured prompt and outcome has the figures of another, drawn by the digest's number."""
    generator = Random(digest.sequence)
    return digest.model_copy(
        update={
            "trajectory": _exchange(digest.trajectory, ("train_loss", "dev_loss", "dev_accuracy"), generator),
            "best": sorted(_exchange(digest.best, ("loss", "accuracy"), generator), key=lambda entry: entry.loss),
            "outcomes": _exchange(digest.outcomes, ("outcome", "score", "gain"), generator),
        }
    )


def _exchange(entries: Sequence[Entry], figures: tuple[str, ...], generator: Random) -> list[Entry]:
    """The entries in their order, with `figures` permuted among them."""
    donors = generator.sample(entries, len(entries))
    return [
        entry.model_copy(update={name: getattr(donor, name) for name in figures})
        for entry, donor in zip(entries, donors, strict=True)
    ]
