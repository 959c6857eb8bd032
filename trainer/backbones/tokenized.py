"""Tokenised examples: ragged rows of ids, padded only to the longest that shares a pass with them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


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

    def pad(self, fill: int, side: Literal["left", "right"] = "right") -> tuple[Tensor, Tensor]:
        """Ids [examples, longest], `fill` where an example has none, and the mask of what is an example's own."""
        ids = pad_sequence(self.ids, batch_first=True, padding_value=fill, padding_side=side)
        mask = pad_sequence([torch.ones_like(ids, dtype=torch.bool) for ids in self.ids], True, False, side)
        return ids, mask

    def chunks(self, budget: int, around: int = 0) -> Iterator[Tensor]:
        """All rows in chunks of similar length, the longest first.

        A chunk holds at most `budget` positions once padded, and at least one row; `around` is what a row takes
        beside its own tokens.
        """
        order = self.lengths.argsort(descending=True, stable=True)
        while len(order):
            most = max(1, budget // (int(self.lengths[order[0]]) + around))
            yield order[:most]
            order = order[most:]
