"""Evaluation on the development split: lanes in training, and candidates in words."""

from math import isfinite

import torch

from shared.errors import UserError
from trainer.backbones.backbone import Backbone
from trainer.backbones.stack import Stack, stack
from trainer.memory import in_passes
from trainer.runs.signals import StopSignals
from trainer.search.evaluation import EncodedSplit, EvalResult, by_example, mean_results
from trainer.search.lanes import Lane, stack_lanes
from trainer.search.pool import TuningResult, snapshot
from trainer.search.state import RunState


class Diverged(UserError):
    """The incumbent's loss became NaN or infinite."""

    best: TuningResult | None = None
    """What the run had found before."""


class Evaluator:
    """Measures prompts on the development split. A signal may break a pass off, before anything has changed."""

    def __init__(self, backbone: Backbone, dev: EncodedSplit, state: RunState, signals: StopSignals) -> None:
        """`dev` is this rank's share of the development split."""
        self._backbone = backbone
        self._dev = dev
        self._state = state
        self._signals = signals

    def evaluate(self, lanes: list[Lane]) -> list[EvalResult]:
        """Measure `lanes`, the incumbent first, and offer them to the pool. Idempotent.

        Raises:
            Diverged: the incumbent's loss is not finite.
        """
        return self.keep(lanes, self.measure(lanes))

    def measure(self, lanes: list[Lane]) -> list[EvalResult]:
        """The development results of `lanes`; nothing changes."""
        return in_passes(self._state, lanes, lambda part: self._results(stack_lanes(part)))

    def score(self, prompts: list[torch.Tensor]) -> list[EvalResult]:
        """Measure `prompts` [tokens, dim] with the incumbent's head, and the incumbent in the same pass.

        The losses may be NaN or infinite.
        """
        incumbent = self._state.lanes[0]
        *results, self._state.dev = in_passes(
            self._state,
            [*prompts, incumbent.prompt],
            lambda part: self._results(stack(part, [incumbent.head] * len(part))),
        )
        return results

    def _results(self, prompts: Stack) -> list[EvalResult]:
        with self._signals.interruptible():
            each = by_example(self._backbone, prompts, self._dev)
        return mean_results(each)

    def keep(self, lanes: list[Lane], results: list[EvalResult]) -> list[EvalResult]:
        """Take over the results of `lanes`, the incumbent first. Raises as `evaluate` does."""
        if not isfinite(results[0].loss):
            raise Diverged(f"the development loss became NaN or infinite after {self._state.lane_steps} lane-steps")
        for lane, result in zip(lanes, results, strict=True):
            if isfinite(result.loss):
                self._state.pool.add(snapshot(lane, self._state.lane_steps, result))
        self._state.dev = results[0]
        return results
