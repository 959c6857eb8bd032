"""Progress of long passes on a terminal: a bar with a rate and what is left. Elsewhere nothing."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def track(items: Iterable[T], what: str) -> Iterator[T]:
    """Go through `items` with a bar named `what` that vanishes when done."""
    return iter(tqdm(items, desc=what, leave=False, disable=None))
