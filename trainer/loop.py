"""The training loop: gradient descent on every lane, restarts merged when they arrive.

It never waits, except for the rounds of `sync` mode.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from bus.channel import Counts
from shared.settings import PromptSettings
from trainer.backbones.vocabulary import Vocabulary
from trainer.descent import Descent
from trainer.evaluator import Evaluator
from trainer.proposals import Proposals
from trainer.search.events import Evaluated, Listener, Stepped
from trainer.search.lanes import Lane
from trainer.search.state import RunState

COUNTS_EVERY = 10
"""Iterations between two readings of the bus's counters."""


@dataclass
class Loop:
    """Trains until the budget is used up or a signal comes."""

    budget: int
    """Lane-steps."""
    num_evals: int
    prompt: PromptSettings
    vocabulary: Vocabulary
    state: RunState
    descent: Descent
    evaluator: Evaluator
    proposals: Proposals | None
    """None for plain prompt tuning."""
    observers: Listener
    save: Callable[[], bool]
    """Saves a checkpoint; false if it cannot."""

    def run(self) -> None:
        """Train until the budget is used up.

        Raises:
            Stopped: a signal came first; `save` saves all of the run.
            Diverged: the incumbent's loss became NaN or infinite.
        """
        state = self.state
        while True:
            began = time.monotonic()
            if self.proposals:
                self.proposals.judge_trials()
            if self._evaluation_is_due():
                self._evaluate()
            if state.lane_steps >= self.budget:
                state.seconds += time.monotonic() - began
                break

            before_bus = time.monotonic()
            if self.proposals:
                self.proposals.exchange()
            bus_seconds = time.monotonic() - before_bus
            if state.lane_steps >= self.budget:  # scoring was charged and used up the rest
                state.seconds += time.monotonic() - began
                state.stalled_seconds += bus_seconds
                continue

            lanes = state.lanes[: self.budget - state.lane_steps]
            train_losses = self.descent.step(lanes)
            self._drop_diverged(lanes, train_losses)

            seconds = time.monotonic() - began
            state.seconds += seconds
            state.stalled_seconds += bus_seconds
            counts = self._counts()
            waits = counts is not None and self.proposals is not None and self.proposals.digest_waits()
            self.observers(
                Stepped(state.lane_steps, lanes, train_losses, seconds - bus_seconds, bus_seconds, counts, waits)
            )
        if self.proposals:
            self.proposals.finish()

    def _evaluation_is_due(self) -> bool:
        """Whether nothing was measured yet, or an evaluation lies between the last point and now."""
        points, per, budget = self.state.trajectory.points, self.num_evals, self.budget
        return not points or self.state.lane_steps * per // budget > points[-1].step * per // budget

    def _evaluate(self) -> None:
        """Measure all lanes, add a point to the trajectory and save a checkpoint."""
        state, incumbent = self.state, self.state.lanes[0]
        results = self.evaluator.evaluate(state.lanes)
        if not state.trajectory.points and (words := incumbent.lineage[0].words):
            state.trajectory.measure(words, state.dev)  # the first prompt in words
        point = state.trajectory.evaluated(
            state.lane_steps, incumbent.prompt, state.dev, self.vocabulary, self.prompt.projection
        )
        self.observers(Evaluated(point, list(state.lanes), results, state.seconds))
        self.save()

    def _drop_diverged(self, lanes: list[Lane], train_losses: list[float]) -> None:
        for lane, loss in zip(lanes, train_losses, strict=True):
            if self.proposals and not isfinite(loss):
                self.proposals.drop_diverged(lane)

    def _counts(self) -> Counts | None:
        if self.proposals and self.state.iterations % COUNTS_EVERY == 0:
            return self.proposals.channel.counts()
        return None
