"""Lanes: soft prompts that train side by side, each with its own head, optimizer, age and lineage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from shared.settings import OptimizerSettings, Settings


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
    """One soft prompt [tokens, dim] in training, with its head where the backbone has one."""

    number: int
    prompt: nn.Parameter
    head: dict[str, nn.Parameter]
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
    heads: list[dict[str, Tensor]] = field(default_factory=list)
    """The head of each lane by parameter name; empty where the backbone has none."""


def stack(prompts: list[Tensor], heads: Sequence[Mapping[str, Tensor]] = ()) -> Stack:
    """Stack prompts [tokens, dim] of any lengths, and their heads; gradients flow back to each."""
    lengths = [len(prompt) for prompt in prompts]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    padded = nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    return Stack(padded, mask.to(padded.device), [dict(head) for head in heads])


def stack_lanes(lanes: list[Lane]) -> Stack:
    """The prompts and heads of lanes."""
    return stack([lane.prompt for lane in lanes], [lane.head for lane in lanes])


def open_lane(
    number: int, start: Tensor, head: Mapping[str, Tensor], lineage: tuple[Origin, ...], settings: Settings
) -> Lane:
    """A lane of age 0 that starts at the prompt `start` [tokens, dim] with a copy of `head`."""
    prompt = nn.Parameter(start.detach().clone(), requires_grad=not settings.prompt.frozen)
    parameters = {name: nn.Parameter(head[name].detach().clone()) for name in sorted(head)}  # the optimizer's order
    return Lane(number, prompt, parameters, _optimizer([prompt, *parameters.values()], settings.optimizer), lineage)


def _optimizer(parameters: list[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr, weight_decay=settings.weight_decay, momentum=0.9)
    return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def backward(lanes: list[Lane], losses: Tensor) -> None:
    """The gradient of every lane; `losses` [lanes] are independent, so their sum serves all."""
    for lane in lanes:
        lane.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(losses.sum())


def optimizer_step(lanes: list[Lane], lr: float) -> None:
    """One step of every lane along its gradient, at `lr`."""
    for lane in lanes:
        for group in lane.optimizer.param_groups:
            group["lr"] = lr
        lane.optimizer.step()
        lane.age += 1
