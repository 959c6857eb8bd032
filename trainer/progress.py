"""Progress bars: of long passes on a terminal and in a notebook, of training in a notebook. Elsewhere none."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import auto, tqdm

T = TypeVar("T")


def track(items: Iterable[T], what: str) -> Iterator[T]:
    """Go through `items` with a bar named `what` that vanishes when done."""
    return iter(_bar(iterable=items, desc=what))


def step_bar(budget: int, lane_steps: int) -> Any:
    """A tqdm bar over the lane-steps of a run, of which `lane_steps` are done; shown in notebooks only."""
    return _bar(total=budget, initial=lane_steps, unit="lane-step") if _in_notebook() else tqdm(disable=True)


def _bar(**options: Any) -> Any:
    if not _in_notebook():
        return tqdm(leave=False, disable=None, **options)  # None: shown on a terminal only
    return auto.tqdm(leave=False, **options)  # a widget, or text where ipywidgets is not installed


def _in_notebook() -> bool:
    """Whether an IPython kernel runs this process."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
