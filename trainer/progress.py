"""Progress bars on a terminal and in a notebook. Elsewhere there are none; the log has plain lines."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def track(items: Iterable[T], what: str) -> Iterator[T]:
    """Go through `items` with a bar named `what` that vanishes when done."""
    return iter(_bar(iterable=items, desc=what))


def step_bar(budget: int, lane_steps: int) -> Any:
    """A tqdm bar over the lane-steps of a run, of which `lane_steps` are done."""
    return _bar(total=budget, initial=lane_steps, unit="lane-step")


def _bar(**options: Any) -> Any:
    if not _in_notebook():
        from tqdm import tqdm

        return tqdm(leave=False, disable=None, **options)  # None: shown on a terminal only
    from tqdm.auto import tqdm  # a widget, or text where ipywidgets is not installed

    return tqdm(leave=False, **options)


def _in_notebook() -> bool:
    """Whether an IPython kernel runs this process."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
