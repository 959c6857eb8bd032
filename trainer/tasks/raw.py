"""What every reader of data returns: examples with the labels in the data."""

from collections.abc import Collection, Mapping

from shared.settings import TaskSettings
from trainer.tasks.examples import Example

RawExample = tuple[Example, str]
"""An example and its raw label."""


def place(settings: TaskSettings) -> str:
    """Where the data comes from, for errors."""
    return f"task.path = {settings.path!r}" if settings.path else f"task.hub = {settings.hub!r}"


def find_splits(names: Mapping[str, list[str]], present: Collection[str]) -> dict[str, str]:
    """Each split and the first of its `names` that is `present`; a split without one is left out."""
    found = {split: next((name for name in aliases if name in present), None) for split, aliases in names.items()}
    return {split: name for split, name in found.items() if name is not None}
