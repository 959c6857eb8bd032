"""Dropout on a processor, where torch's masks cost as much time as the layers around them.

An element's mask takes 16 bits of a 64-bit random number: a quarter of the time of `bernoulli_`, with a probability
that is exact to 1/65,536. torch's own attention draws its masks inside, so it is written out here.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trainer.backbones.read_layer import ALIKE

ATTENTION = "fast_dropout"
"""What transformers knows the attention by."""


class FastDropout(nn.Dropout):
    """`nn.Dropout` by `fast_dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """`input` [...], in training with elements dropped."""
        return fast_dropout(input, self.p) if self.training and self.p else input


def fast_dropout(input: Tensor, p: float) -> Tensor:
    """`input` [...], float32 on a processor, each element 0 with probability `p`, else divided by 1 - p."""
    numbers = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = numbers.view(torch.int16)[: input.numel()].view(input.shape)
    kept = torch.lt(bits, round(2**16 * (1 - p)) - 2**15, out=torch.empty(input.shape))
    return input * kept.mul_(1 / (1 - p))


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float = 1.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query, key, value [rows, heads, positions, dim], masks true where read."""
    if not dropout:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scores = query @ key.mT
    unread = torch.zeros(()) if attention_mask is None else torch.where(attention_mask, 0.0, -torch.inf)
    weights = torch.add(unread, scores, alpha=scaling).softmax(-1)
    return (fast_dropout(weights, dropout) @ value).transpose(1, 2), None


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def use_fast_dropout(model: Any) -> None:
    """Replace the dropout of a frozen float32 encoder on a processor."""
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Dropout:
            model.set_submodule(name, FastDropout(layer.p).train(layer.training))
    if model.config.model_type in ALIKE and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTENTION)
