"""Evenly spaced samples of a sequence."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def subsample(items: Sequence[T], most: int) -> list[T]:
    """At most `most` (2 or more) of `items`, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]
