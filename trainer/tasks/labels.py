"""The classes of a task: the words that name them."""

import unicodedata

from shared.errors import UserError
from shared.settings import TaskSettings
from trainer.tasks.formats import LABELS
from trainer.tasks.raw import RawExample, place

LONGEST_LABEL = 200
"""Most characters of a class name; the limit of `task.labels`, and of a message."""


def label_words(settings: TaskSettings, raw: dict[str, list[RawExample]]) -> dict[str, str]:
    """The words of each raw label, in the order of the classes.

    Raises:
        UserError: `task.labels` does not fit the format, or class names are too long or too much alike.
    """
    own = LABELS.get(settings.format)
    if own is not None:
        return _own_words(settings, own)
    if settings.labels:
        words = settings.labels
    else:
        found = raw.get("train") or [row for rows in raw.values() for row in rows]
        words = {label: label for label in sorted({label for _, label in found})}
    _check_words(list(dict.fromkeys(words.values())), settings)
    return words


def _own_words(settings: TaskSettings, own: dict[str, str]) -> dict[str, str]:
    if not settings.labels:
        return own
    if settings.labels.keys() != own.keys():
        raise UserError(f"task.labels must name the labels of the format {settings.format}: {', '.join(own)}")
    words = {label: settings.labels[label] for label in own}  # in the format's order, which its metrics rely on
    _check_words(list(words.values()), settings)
    return words


def _check_words(words: list[str], settings: TaskSettings) -> None:
    """Refuse class names that are too long, and two that an uncased model reads as one."""
    where = "task.labels" if settings.labels else place(settings)
    known: dict[str, str] = {}
    for name in words:
        if len(name) > LONGEST_LABEL:
            raise UserError(
                f"{where}: the label {name[:60]!r}... has {len(name)} characters, but a class name has at most "
                f"{LONGEST_LABEL}; is task.label the right column? If so, give it shorter words in task.labels"
            )
        other = known.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), name)
        if other != name:
            raise UserError(
                f"{where}: the labels {other!r} and {name!r} differ only in case or blanks; "
                "spell them alike, or give them the same or different words in task.labels"
            )
