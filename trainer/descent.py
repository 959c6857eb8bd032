"""Gradient descent: from a batch to an optimizer step of every lane."""

from functools import cached_property
from math import isfinite

import torch
from torch import Tensor

from shared.settings import Settings
from trainer import ranks
from trainer.backbones.backbone import Backbone
from trainer.evaluator import Diverged
from trainer.memory import in_passes
from trainer.runs.signals import StopSignals
from trainer.search.batches import batch_indices
from trainer.search.evaluation import EncodedSplit, losses
from trainer.search.lanes import Lane, backward, optimizer_step, stack_lanes, zero_grad
from trainer.search.schedule import learning_rate, steps_per_epoch
from trainer.search.state import RunState

PROBE_ROWS = 128
"""Training rows that the gradient of the start is taken on, at most."""


class Descent:
    """Trains lanes on the training split."""

    def __init__(
        self, settings: Settings, backbone: Backbone, train: EncodedSplit, state: RunState, signals: StopSignals
    ) -> None:
        self._settings = settings
        self._backbone = backbone
        self._train = train
        self._state = state
        self._signals = signals

    def step(self, lanes: list[Lane]) -> list[float]:
        """One step of `lanes`, the incumbent first, all on the same batch.

        Returns:
            The training loss of each lane. A challenger whose loss is not finite is left where it was.

        Raises:
            Diverged: the incumbent's loss is not finite.
        """
        state, settings, train = self._state, self._settings, self._train
        indices = batch_indices(
            state.iterations, settings.optimizer.batch_size, len(train.targets), settings.seed, train.lengths
        )
        values = _sum_over_ranks(lanes, in_passes(state, lanes, lambda part: self._forward_backward(part, indices)))
        if not isfinite(values[0]):
            raise Diverged(
                f"the training loss became NaN or infinite after {state.lane_steps} lane-steps; "
                f"optimizer.lr = {settings.optimizer.lr:g} is too high"
            )
        finite = [lane for lane, value in zip(lanes, values, strict=True) if isfinite(value)]
        optimizer_step(finite, learning_rate(settings.optimizer, state.lane_steps, settings.steps, self._warmup))
        state.iterations += 1
        state.lane_steps += len(lanes)
        state.trajectory.step(values[0])
        return values

    def _forward_backward(self, lanes: list[Lane], indices: Tensor) -> list[float]:
        seed = self._settings.seed * 1_000_003 + self._state.iterations
        torch.manual_seed(seed * ranks.count() + ranks.number())  # dropout repeats after a resume
        with self._signals.interruptible():
            zero_grad(lanes)
            values: list[float] = self._add_gradients(lanes, indices, training=True).tolist()
        return values

    def _add_gradients(self, lanes: list[Lane], indices: Tensor, weight: float = 1.0, training: bool = False) -> Tensor:
        """This rank's part of the mean loss of each lane over the rows at `indices`, [lanes], times `weight`.

        Its gradient is added to those of the lanes, a micro-batch at a time.
        """
        taken, part = ranks.share(len(indices))
        own, total = indices[taken], torch.zeros(len(lanes), device=self._train.targets.device)
        fitting = self._backbone.micro_batch(stack_lanes(lanes), self._train.inputs[own])
        for rows in torch.split(own, self._settings.optimizer.micro_batch or fitting):
            logits = self._backbone.logits(stack_lanes(lanes), self._train.inputs[rows], training)
            lane_losses = losses(logits, self._train.targets[rows]) * (weight * part * len(rows) / len(own))
            backward(lane_losses)
            total += lane_losses.detach()
        return total

    def probe_gradient(self) -> None:
        """The incumbent's gradient without a step, so that a digest of the start says where it points.

        Taken on up to `PROBE_ROWS` rows, a batch at a time, so that it needs no more memory than a step.
        """
        settings, lanes = self._settings, self._state.lanes[:1]
        rows = batch_indices(0, PROBE_ROWS, len(self._train.targets), settings.seed)
        with ranks.agreed(), self._signals.interruptible():
            zero_grad(lanes)
            for part in torch.split(rows, settings.optimizer.batch_size):
                self._add_gradients(lanes, part, weight=len(part) / len(rows))
        _sum_over_ranks(lanes, [])

    @cached_property
    def _warmup(self) -> int:
        """Lane-steps."""
        optimizer = self._settings.optimizer
        return optimizer.warmup_epochs * steps_per_epoch(optimizer.batch_size, len(self._train.targets))


def _sum_over_ranks(lanes: list[Lane], values: list[float]) -> list[float]:
    """Replace the gradients of `lanes` by their sums over the ranks; the sums of `values`."""
    if ranks.count() == 1:
        return values
    sums = torch.tensor(values)
    parameters = (parameter for lane in lanes for parameter in (lane.prompt, *lane.head.values()))
    ranks.all_reduce([sums, *(one.grad for one in parameters if one.grad is not None)])
    totals: list[float] = sums.tolist()
    return totals
