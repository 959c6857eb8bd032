"""The last layer of a decoder, computed only where it is read."""

import copy
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import rotate_half

LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose attention makes keys and values as Llama's does."""


def read_last(model: Any, positions: int) -> Any:
    """A causal language model over the same weights that gives states and logits of the last `positions` alone.

    For models unlike Llama it is the model itself, which computes all of them; `model` is not changed.
    """
    if model.config.model_type not in LIKE_LLAMA:
        return model
    trunk = _twin(model.model)
    trunk.layers = nn.ModuleList([*trunk.layers[:-1], LastLayer(trunk.layers[-1], positions)])
    reader = _twin(model)
    reader.model = trunk
    return reader


def _twin(module: nn.Module) -> Any:
    """A module that shares all parts, each of which can be replaced without changing the other's."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


class LastLayer(nn.Module):
    """A Llama-like layer that computes queries, output and feed-forward for the last `positions` alone.

    The layer runs as in a step of generation: earlier positions are keys and values in its cache.
    """

    def __init__(self, layer: Any, positions: int) -> None:
        super().__init__()
        self.layer = layer
        self.positions = positions

    def forward(
        self, hidden: Tensor, attention_mask: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any
    ) -> Tensor:
        """States [rows, positions, dim] from the states before [rows, length, dim]."""
        before, now = slice(None, -self.positions), slice(-self.positions, None)
        cos, sin = position_embeddings
        states: Tensor = self.layer(
            hidden[:, now],
            attention_mask=attention_mask[:, :, now],
            position_embeddings=(cos[:, now], sin[:, now]),
            past_key_values=self._past(hidden[:, before], cos[:, before], sin[:, before]),
        )
        return states

    def _past(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> DynamicCache:
        """Keys and values of the positions whose outputs are not read."""
        attention = self.layer.self_attn
        states = self.layer.input_layernorm(hidden)
        heads = (*states.shape[:-1], -1, attention.head_dim)
        keys = attention.k_proj(states).view(heads)
        if hasattr(attention, "k_norm"):
            keys = attention.k_norm(keys)
        keys, values = keys.transpose(1, 2), attention.v_proj(states).view(heads).transpose(1, 2)
        cache = DynamicCache()
        cache.update(keys * cos[:, None] + rotate_half(keys) * sin[:, None], values, attention.layer_idx)  # type: ignore[no-untyped-call]
        return cache
