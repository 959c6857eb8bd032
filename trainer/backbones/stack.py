"""Soft prompts of several lanes as one tensor, so that one pass through a backbone serves them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Stack:
    """Padded prompts of several lanes with their heads."""

    prompts: Tensor
    """[lanes, longest, dim]; shorter prompts are padded with zeros at the end."""
    mask: Tensor
    """[lanes, longest], true at prompt positions."""
    heads: list[dict[str, Tensor]] = field(default_factory=list)
    """The head of each lane by parameter name; empty where the backbone has none."""


def stack(prompts: list[Tensor], heads: Sequence[Mapping[str, Tensor]] = ()) -> Stack:
    """Stack prompts [tokens, dim] of any lengths, and their heads; gradients flow back to each."""
    lengths = [len(prompt) for prompt in prompts]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    padded = nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    return Stack(padded, mask.to(padded.device), [dict(head) for head in heads])
