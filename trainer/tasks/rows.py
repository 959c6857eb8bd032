"""What every reader of data gives: examples with the label that the data has for them."""

from shared.settings import TaskSettings
from trainer.examples import Example

Row = tuple[Example, str]
"""An example and its raw label."""


def place(settings: TaskSettings) -> str:
    """Where the data comes from, for errors."""
    return f"task.path = {settings.path!r}" if settings.path else f"task.hub = {settings.hub!r}"
