"""Progress on a terminal: a bar with a rate and what is left. Elsewhere nothing; the log has plain lines."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def track(items: Iterable[T], what: str) -> Iterator[T]:
    """Go through `items` with a bar named `what` that vanishes when done."""
    return iter(tqdm(items, desc=what, leave=False, disable=None))


def step_bar(budget: int, lane_steps: int) -> "tqdm[None]":
    """A bar over the lane-steps of a run."""
    return tqdm(total=budget, initial=lane_steps, unit="lane-step", leave=False, disable=None)
