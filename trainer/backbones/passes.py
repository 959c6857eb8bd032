"""Passes through a frozen model in chunks, so that memory is bounded whatever is asked for."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CPU_BYTES = 2**30
"""Activations that one pass may keep for its backward pass on a processor."""

DEVICE_SHARE = 3
"""On an accelerator they may take one in this many parts of its memory."""


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


def run_chunks(run: Callable[[Any], Tensor], chunks: Sequence[Any]) -> list[Tensor]:
    """The outputs of `run` for each chunk, in the memory of one.

    Of several chunks the activations are not kept: `backward` computes them again, chunk by chunk (Chen et al. 2016).
    """
    if len(chunks) > 1 and torch.is_grad_enabled():
        run = partial(checkpoint, run, use_reentrant=False)
    return [run(chunk) for chunk in chunks]
