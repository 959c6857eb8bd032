"""Passes through a frozen model in chunks, so that memory is bounded whatever is asked for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.backbones.cuda_graphs import without_graphs

CPU_BYTES = 2**30
"""Activations that one pass may keep for its backward pass on a processor."""

CACHED_POSITIONS = 768
"""Positions in one call of a kernel on a processor: what its cache holds, and enough to keep its cores busy."""

DEVICE_SHARE = 3
"""On an accelerator they may take one in this many parts of its memory."""

_after_chunk: ContextVar[Callable[[], None]] = ContextVar("_after_chunk", default=lambda: None)


@contextmanager
def after_each_chunk(call: Callable[[], None]) -> Iterator[None]:
    """Inside, `call` after each chunk of every pass, so that a long evaluation does not look like a hang."""
    token = _after_chunk.set(call)
    try:
        yield
    finally:
        _after_chunk.reset(token)


def max_pass_positions(config: Any, device: torch.device, dtype: torch.dtype, checkpointing: bool = False) -> int:
    """Positions whose activations fit into memory at once.

    A layer of a transformer keeps about 16 vectors of its width at each position (Korthikanti et al. 2022, without
    attention scores, which fused kernels do not keep), or one with `checkpointing`, where a single layer keeps them.
    """
    memory: int = CPU_BYTES
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory // DEVICE_SHARE
    text = config.get_text_config()
    vectors = 16 + text.num_hidden_layers if checkpointing else 16 * text.num_hidden_layers
    positions: int = memory // (vectors * text.hidden_size * dtype.itemsize)
    return max(1, positions)


def max_kernel_positions(device: torch.device, pass_positions: int) -> int:
    """Positions in one call of a kernel, of the `pass_positions` that fit into memory."""
    return min(CACHED_POSITIONS, pass_positions) if device.type == "cpu" else pass_positions


def chunks_by_length(lengths: Tensor, budget: int, extra: int = 0) -> Iterator[Tensor]:
    """Indices [n] of all examples in chunks of similar length, the longest first.

    A padded chunk has at most `budget` positions, `extra` for each example included, and at least one example;
    `lengths` are those of the examples, int64 [examples].
    """
    order = lengths.argsort(descending=True, stable=True)
    while len(order):
        size = max(1, budget // (int(lengths[order[0]]) + extra))
        yield order[:size]
        order = order[size:]


def original_order(chunks: Sequence[Tensor], device: torch.device) -> Tensor:
    """Where the examples of `chunks`, indices [n] each, lie in their joined outputs, [examples], on `device`.

    Found before the passes run, because a copy to a GPU waits for all that it has been given.
    """
    return torch.cat(list(chunks)).argsort().to(device)


def run_chunks(run: Callable[[Any], Tensor], chunks: Sequence[Any]) -> list[Tensor]:
    """The outputs of `run` for each chunk, in the memory of one.

    Of several chunks the activations are not kept: `backward` computes them again, chunk by chunk (Chen et al. 2016).
    """
    if len(chunks) > 1 and torch.is_grad_enabled():
        run = partial(checkpoint, without_graphs()(run), use_reentrant=False)
    outputs = []
    for chunk in chunks:
        outputs.append(run(chunk))
        _after_chunk.get()()
    return outputs
