"""Training passes on a GPU as CUDA graphs: recorded once for each shape, then replayed.

A pass through a frozen model is hundreds of small kernels, which Python launches more slowly than a GPU runs them.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from shared.errors import first_line
from shared.settings import BackboneSettings

log = logging.getLogger(__name__)

SHAPES = 128
"""Graphs of one model, at most: each has its inputs and outputs in memory, and all share what lies between."""

MULTIPLE = 16
"""Lengths are padded to multiples of this, so that there are few shapes; attention is also faster at these."""

_enabled: ContextVar[bool] = ContextVar("_enabled", default=True)


@contextmanager
def without_graphs() -> Iterator[None]:
    """Inside, every pass runs kernel by kernel."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


class CudaGraphs:
    """A function of tensors; on a GPU, passes with a gradient for its first input are recorded and replayed.

    All other passes run kernel by kernel, and so do those of models that cannot be recorded because they wait for the
    GPU's results.
    """

    def __init__(self, run: Callable[..., Tensor], settings: BackboneSettings, device: torch.device) -> None:
        """Take a function that computes on `device`; the settings say how the model in it was loaded."""
        self._run = run
        self._device = device
        waits = settings.device_map or settings.quantization or settings.attention == "flash_attention_2"
        self.records = device.type == "cuda" and settings.cuda_graphs and not (waits or settings.checkpointing)
        self._pool: Any = None
        self._graph = lru_cache(SHAPES)(self._record)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the function gives for `inputs`.

        The next output of the same shape takes its place in memory, so its backward pass has to come first.
        """
        trains = torch.is_grad_enabled() and inputs[0].requires_grad
        if not (self.records and trains and _enabled.get()):
            return self._run(*inputs)
        return self._graph(*((each.shape, each.dtype) for each in inputs))(*inputs)

    def length(self, length: int, limit: int) -> int:
        """The length, at most `limit`, that sequences of `length` positions are padded to."""
        return min(limit, -(-length // MULTIPLE) * MULTIPLE) if self.records else length

    def _record(self, *signature: tuple[torch.Size, torch.dtype]) -> Callable[..., Tensor]:
        samples = tuple(torch.ones(shape, dtype=dtype, device=self._device) for shape, dtype in signature)
        samples[0].requires_grad_()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            with (
                torch.cuda.device(self._device),  # on another one nothing would be recorded
                torch.cuda.stream(torch.cuda.current_stream(self._device)),  # a recording that fails leaves its own
                torch.random.fork_rng([self._device], device_type="cuda"),  # dropout repeats after a resume
                warnings.catch_warnings(action="ignore"),  # trial runs are on another stream than the recording
            ):
                return _Graph(
                    torch.cuda.make_graphed_callables(self._run, samples, num_warmup_iters=1, pool=self._pool)
                )
        except RuntimeError as error:
            with torch.cuda.device(self._device):
                _end_recording()
            cause = error.__context__ or error  # what ended the recording, and then its end failed too
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            log.info("passes run kernel by kernel, because the GPU cannot record the model's: %s", first_line(cause))
            self.records = False
            return self._run


def _end_recording() -> None:
    """Take torch's generator of random numbers out of a recording that failed, by one that does not."""
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.ones(1, device="cuda")


class _Graph:
    """A recorded pass, whose activations lie where its next replay writes its own."""

    def __init__(self, replay: Any) -> None:
        self._replay = replay
        self._replays = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self._replay(*inputs)
        self._replays += 1
        replay = self._replays
        output.register_hook(lambda _: self._check(replay))  # type: ignore[no-untyped-call]
        return output

    def _check(self, replay: int) -> None:
        assert replay == self._replays, "a pass of the same shape ran before the backward pass of this one"
