"""Evaluation on the development split: lanes in training, and candidates in words."""

from math import isfinite

import torch

from shared.errors import UserError
from trainer import ranks
from trainer.backbones.backbone import Backbone
from trainer.backbones.stack import Stack, stack
from trainer.memory import in_passes
from trainer.runs.signals import StopSignals
from trainer.search.evaluation import EncodedSplit, EvalResult, Score, by_example, mean_results, paired_t
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

    def score(self, prompts: list[torch.Tensor]) -> list[Score]:
        """Measure `prompts` [tokens, dim] with the incumbent's head, and the incumbent in the same pass.

        The losses of candidates may be NaN or infinite.
        """
        incumbent = self._state.lanes[0]
        each = torch.stack(
            in_passes(
                self._state,
                [*prompts, incumbent.prompt],
                lambda part: self._by_example(stack(part, [incumbent.head] * len(part))),
            )
        )
        *results, self._state.dev = (EvalResult(*pair) for pair in each.mean(-1).tolist())
        return [Score(*pair) for pair in zip(results, paired_t(each[-1, 0], each[:-1, 0]), strict=True)]

    def _results(self, prompts: Stack) -> list[EvalResult]:
        return mean_results(self._by_own_example(prompts))

    def _by_example(self, prompts: Stack) -> list[torch.Tensor]:
        """Losses and hits of each lane on the examples of all ranks, [2, examples]."""
        found = self._by_own_example(prompts)
        return [*ranks.gather(found.permute(2, 0, 1), self._dev.total).permute(1, 2, 0)]

    def _by_own_example(self, prompts: Stack) -> torch.Tensor:
        """Losses and hits of each lane on this rank's examples, [lanes, 2, examples]."""
        with self._signals.interruptible():
            return by_example(self._backbone, prompts, self._dev)

    def keep(self, lanes: list[Lane], results: list[EvalResult]) -> list[EvalResult]:
        """Take over the results of `lanes`, the incumbent first. Raises as `evaluate` does."""
        if not isfinite(results[0].loss):
            raise Diverged(f"the development loss became NaN or infinite after {self._state.lane_steps} lane-steps")
        for lane, result in zip(lanes, results, strict=True):
            if isfinite(result.loss):
                self._state.pool.add(snapshot(lane, self._state.lane_steps, result))
        self._state.dev = results[0]
        return results
