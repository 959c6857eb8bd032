"""Gradient descent: from a batch to an optimizer step of every lane."""

from collections.abc import Iterator
from functools import cached_property
from itertools import count
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from shared.settings import Settings
from trainer import ranks
from trainer.backbones.backbone import Augments, Backbone
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
        self._seen: tuple[int, Any] | None = None
        """The last iteration that saw views, and the examples that it saw."""

    def step(self, lanes: list[Lane]) -> list[float]:
        """One step of `lanes`, the incumbent first, all on the same batch.

        Returns:
            The training loss of each lane. A challenger whose loss is not finite is left where it was.

        Raises:
            Diverged: the incumbent's loss is not finite.
        """
        state, settings = self._state, self._settings
        indices = self._indices(state.iterations)
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
        _seed(seed * ranks.count() + ranks.number(), lanes[0].prompt.device)  # dropout repeats after a resume
        with self._signals.interruptible():
            zero_grad(lanes)
            values: list[float] = self._add_gradients(lanes, indices, training=True).tolist()
        return values

    def _add_gradients(self, lanes: list[Lane], indices: Tensor, weight: float = 1.0, training: bool = False) -> Tensor:
        """This rank's part of the mean loss of each lane over the rows at `indices`, [lanes], times `weight`.

        Its gradient is added to those of the lanes, a micro-batch at a time.
        """
        taken, part = ranks.share(len(indices))
        own = indices[taken]
        inputs = self._views() if training and self._stream else self._train.inputs[own]
        targets = self._train.targets[own]
        total = torch.zeros(len(lanes), device=targets.device)
        size = self._settings.optimizer.micro_batch or self._backbone.micro_batch(stack_lanes(lanes), inputs)
        for rows in torch.split(torch.arange(len(own)), size):
            whole = len(rows) == len(own)
            micro_batch, wanted = (inputs, targets) if whole else (inputs[rows], targets[rows])
            logits = self._backbone.logits(stack_lanes(lanes), micro_batch, training)
            lane_losses = losses(logits, wanted) * (weight * part * len(rows) / len(own))
            backward(lane_losses)
            total += lane_losses.detach()
        return total

    @cached_property
    def _stream(self) -> Iterator[Any] | None:
        """The views of this rank's rows from this iteration on; None where training sees the examples themselves."""
        if not isinstance(self._backbone, Augments):
            return None
        return self._backbone.views(self._train.inputs, self._batches(self._state.iterations), self._settings.seed)

    def _batches(self, iteration: int) -> Iterator[tuple[int, Tensor]]:
        """This rank's rows in each iteration from `iteration` on."""
        for number in count(iteration):
            indices = self._indices(number)
            yield number, indices[ranks.share(len(indices))[0]]

    def _views(self) -> Any:
        """The views of this iteration, which a pass that is repeated sees again."""
        assert self._stream is not None
        if self._seen is None or self._seen[0] != self._state.iterations:
            self._seen = self._state.iterations, next(self._stream)
        return self._seen[1]

    def _indices(self, iteration: int) -> Tensor:
        settings, train = self._settings, self._train
        return batch_indices(iteration, settings.optimizer.batch_size, len(train.targets), settings.seed, train.lengths)

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


def _seed(seed: int, device: torch.device) -> None:
    """Seed the generator that dropout on `device` draws from.

    On a processor `torch.manual_seed` takes half a millisecond more, two percent of the demo's step: it prepares the
    generators of GPUs, present or not, for later.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
