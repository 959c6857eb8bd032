"""Lanes: soft prompts that train side by side, each with its own head, optimizer, age and lineage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from shared.settings import OptimizerSettings, Settings
from trainer.backbones.stack import Stack, stack


@dataclass(frozen=True)
class Origin:
    """Where a lane's prompt started."""

    source: Literal["words", "vocabulary", "random", "proposal"]
    words: str
    """The words it started from; empty for a random start."""
    step: int
    """Lane-steps when it started."""


@dataclass
class Lane:
    """One soft prompt [tokens, dim] in training, with its head where the backbone has one."""

    number: int
    prompt: nn.Parameter
    head: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    lineage: tuple[Origin, ...]
    """The origins of the incumbents that this lane descends from, oldest first, its own last."""
    age: int = 0
    """Optimizer steps taken."""


def stack_lanes(lanes: list[Lane]) -> Stack:
    """The prompts and heads of lanes."""
    return stack([lane.prompt for lane in lanes], [lane.head for lane in lanes])


def open_lane(
    number: int, start: Tensor, head: Mapping[str, Tensor], lineage: tuple[Origin, ...], settings: Settings
) -> Lane:
    """A lane of age 0 that starts at the prompt `start` [tokens, dim] with a copy of `head`, all float32."""
    prompt = nn.Parameter(start.detach().float().clone(), requires_grad=not settings.prompt.frozen)
    parameters = {name: nn.Parameter(head[name].detach().float().clone()) for name in sorted(head)}  # a fixed order
    return Lane(number, prompt, parameters, _optimizer([prompt, *parameters.values()], settings.optimizer), lineage)


def _optimizer(parameters: list[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr, weight_decay=settings.weight_decay, momentum=0.9)
    return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def zero_grad(lanes: list[Lane]) -> None:
    """Drop the gradients of `lanes`."""
    for lane in lanes:
        lane.optimizer.zero_grad(set_to_none=True)


def backward(losses: Tensor) -> None:
    """Add to the gradient of every lane; `losses` [lanes] are independent, so one pass of their sum serves all."""
    torch.autograd.backward(losses.sum())


def optimizer_step(lanes: list[Lane], lr: float) -> None:
    """One optimizer step of every lane, at learning rate `lr`."""
    for lane in lanes:
        for group in lane.optimizer.param_groups:
            group["lr"] = lr
        lane.optimizer.step()
        lane.age += 1
