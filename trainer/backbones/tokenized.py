"""Tokenised examples: token ids of any length, padded only to the longest example of a pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer.backbones.passes import chunks_by_length


@dataclass(frozen=True)
class TokenizedBatch:
    """Token ids of examples, each [its tokens], int64."""

    ids: list[Tensor]

    def __len__(self) -> int:
        """How many examples."""
        return len(self.ids)

    def __getitem__(self, rows: Tensor) -> "TokenizedBatch":
        """The examples at `rows`, int64 [n]."""
        return TokenizedBatch([self.ids[row] for row in rows.tolist()])

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each example, [examples]."""
        return torch.tensor([len(ids) for ids in self.ids])

    def pad(self, fill: int, padding_side: Literal["left", "right"] = "right") -> tuple[Tensor, Tensor]:
        """Ids [examples, longest], padded with `fill`, and the mask [examples, longest], false at padding."""
        ids = pad_sequence(self.ids, batch_first=True, padding_value=fill, padding_side=padding_side)
        mask = pad_sequence([torch.ones_like(ids, dtype=torch.bool) for ids in self.ids], True, False, padding_side)
        return ids, mask

    def chunks(self, budget: int, extra: int = 0) -> Iterator[Tensor]:
        """Indices [n] of all examples in chunks, as `chunks_by_length` makes them."""
        return chunks_by_length(self.lengths, budget, extra)
