"""What every reader of data gives: examples with the label that the data has for them."""

from collections.abc import Collection, Mapping

from shared.settings import TaskSettings
from trainer.tasks.examples import Example

RawExample = tuple[Example, str]
"""An example and its raw label."""


def place(settings: TaskSettings) -> str:
    """Where the data comes from, for errors."""
    return f"task.path = {settings.path!r}" if settings.path else f"task.hub = {settings.hub!r}"


def find_splits(names: Mapping[str, list[str]], present: Collection[str]) -> dict[str, str]:
    """Each split that is there and what it is called; of its `names` the first that is `present` counts."""
    found = {split: next((name for name in told if name in present), None) for split, told in names.items()}
    return {split: name for split, name in found.items() if name is not None}
