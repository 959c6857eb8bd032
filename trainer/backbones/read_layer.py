"""The last layer of a BERT-like encoder, computed only at the one position that is read."""

from typing import Any, Self

import torch
from torch import Tensor, einsum, nn
from torch.nn.functional import dropout

ALIKE = {"bert", "camembert", "electra", "roberta", "xlm-roberta"}
"""Model types whose layers are BERT's: absolute positions, the norm after the residual, plain attention."""


class ReadLayer(nn.Module):
    """The layer at one position: this saves nearly all of its work, which is 1/layers of the whole."""

    def __init__(self, layer: Any) -> None:
        """Take a BertLayer or its like."""
        super().__init__()
        self._layer = layer

    @classmethod
    def cut_from(cls, body: Any) -> Self | None:
        """Take the last layer out of a model; None, and the model unchanged, if it is not BERT's, or quantised."""
        if body.config.model_type not in ALIKE:
            return None
        *rest, last = body.encoder.layer
        if not last.attention.self.key.weight.is_floating_point():
            return None
        body.encoder.layer = nn.ModuleList(rest)
        return cls(last)

    def forward(self, hidden: Tensor, mask: Tensor, at: Tensor) -> Tensor:
        """Output [n, 1, dim] at the positions `at` [n], from `hidden` [n, positions, dim] and `mask` [n, positions].

        A single query meets all positions, so it is the query that goes through the keys' weights, and the mean of
        the positions through the values': (W_k x + b_k)·q = x·(W_k^T q) + a term that is the same for every x.
        """
        attention = self._layer.attention.self
        heads = attention.num_attention_heads
        query_states = hidden[torch.arange(len(hidden), device=hidden.device), at]
        query = attention.query(query_states).unflatten(-1, (heads, -1)) * attention.scaling
        scores = einsum("nhd,hde->nhe", query, attention.key.weight.unflatten(0, (heads, -1))) @ hidden.mT
        weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1, dtype=torch.float32).to(hidden.dtype)
        weights = dropout(weights, attention.dropout.p, self.training)
        context = einsum("nhe,hde->nhd", weights @ hidden, attention.value.weight.unflatten(0, (heads, -1)))
        context = context + weights.sum(-1, keepdim=True) * attention.value.bias.unflatten(0, (heads, -1))
        attended = self._layer.attention.output(context.flatten(1)[:, None], query_states[:, None])
        output: Tensor = self._layer.feed_forward_chunk(attended)
        return output
