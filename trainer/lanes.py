"""Lanes: soft prompts that train side by side, each with its own optimizer, age and lineage."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from shared.settings import OptimizerSettings


@dataclass(frozen=True)
class Origin:
    """Where a lane's prompt started."""

    source: Literal["words", "vocabulary", "random", "proposal"]
    words: str
    """The words it started from; empty for a random start."""
    step: int
    """Lane-steps spent when it started."""


@dataclass
class Lane:
    """One soft prompt [tokens, dim] in training."""

    number: int
    prompt: nn.Parameter
    optimizer: torch.optim.Optimizer
    lineage: tuple[Origin, ...]
    """The incumbents that this lane replaced, oldest first, and last its own origin."""
    age: int = 0
    """Steps it has trained."""


@dataclass(frozen=True)
class Stack:
    """Prompts of several lanes as one tensor, so that one pass through the backbone serves them all."""

    prompts: Tensor
    """[lanes, longest, dim]; shorter prompts end in zeros."""
    mask: Tensor
    """[lanes, longest], true where there is a prompt."""


def stack(prompts: list[Tensor]) -> Stack:
    """Stack prompts [tokens, dim] of any lengths; gradients flow back to each."""
    lengths = [len(prompt) for prompt in prompts]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    padded = nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    return Stack(padded, mask.to(padded.device))


def open_lane(number: int, start: Tensor, lineage: tuple[Origin, ...], settings: OptimizerSettings) -> Lane:
    """A lane of age 0 that starts at `start` [tokens, dim]."""
    prompt = nn.Parameter(start.detach().clone())
    optimizer = torch.optim.AdamW([prompt], lr=settings.lr, weight_decay=settings.weight_decay)
    return Lane(number, prompt, optimizer, lineage)


def descend(lanes: list[Lane], losses: Tensor) -> None:
    """One gradient step of every lane; `losses` [lanes] are independent, so their sum serves all."""
    for lane in lanes:
        lane.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(losses.sum())
    for lane in lanes:
        lane.optimizer.step()
        lane.age += 1
