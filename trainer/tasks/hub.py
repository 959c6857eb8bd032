"""Data sets of the hub."""

from glob import has_magic
from pathlib import Path
from typing import Any

from shared.errors import UserError, first_line
from shared.settings import TaskSettings


def load_hub(settings: TaskSettings) -> Any:
    """The splits of `task.hub` by name, as `datasets` gives them.

    Raises:
        UserError: no data set is named, or it cannot be fetched.
    """
    from datasets import load_dataset

    if settings.hub is None:
        raise UserError("the task has no data: set task.path to the folder that holds it, or task.hub")
    if has_magic(settings.hub) and Path(settings.hub).is_dir():  # `datasets` would read other folders that match
        raise UserError(f"task.hub = {settings.hub!r}: a local folder must not have *, ? or [ in its name; rename it")
    try:
        return load_dataset(settings.hub, settings.config)
    except Exception as error:
        raise UserError(
            f"task.hub = {settings.hub!r} cannot be fetched ({first_line(error)}); "
            "set task.path to a local folder instead"
        ) from None
