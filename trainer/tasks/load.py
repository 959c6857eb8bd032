"""A task, from its settings."""

import unicodedata

from shared.errors import UserError
from shared.settings import TaskSettings
from shared.subsampling import subsample
from trainer.tasks.draw import LabeledExamples, draw_splits
from trainer.tasks.examples import Task
from trainer.tasks.formats import LABELS
from trainer.tasks.images import read_images
from trainer.tasks.raw import RawExample, place
from trainer.tasks.read import read_rows

LONGEST_LABEL = 200
"""Characters of a class name; `task.labels` has the same limit, and a message takes no more."""

DIGEST_LABELS = 1_000
DIGEST_LABEL_BYTES = 16_384
"""Class names in a digest, at most, and their bytes in all."""


def load_task(settings: TaskSettings, seed: int, template: str = "") -> Task:
    """Read a task and draw its training and development examples by `seed`.

    Args:
        settings: of the task.
        seed: draws the examples.
        template: of a decoder; the columns in its braces are read too.

    Raises:
        UserError: no such data, no such column, a row that cannot be read, an unknown label, too few rows.
    """
    raw = read_images(settings) if settings.format == "image" else read_rows(settings, template)
    words = _words(settings, raw)
    labels = list(dict.fromkeys(words.values()))
    rows = {split: _classify(split_rows, words, labels, settings, split) for split, split_rows in raw.items()}
    return Task(settings.format, settings.description, labels, *draw_splits(rows, settings, labels, seed))


def digest_labels(labels: list[str]) -> list[str]:
    """The class names that a digest carries: all, or evenly spaced ones if a message does not take all."""
    kept = subsample(labels, DIGEST_LABELS)
    while len(kept) > 2 and sum(len(label.encode()) for label in kept) > DIGEST_LABEL_BYTES:
        kept = subsample(kept, max(2, len(kept) * 3 // 4))
    return kept


def _words(settings: TaskSettings, raw: dict[str, list[RawExample]]) -> dict[str, str]:
    """The words of each raw label, in the order of the classes."""
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
    """Refuse class names that are too long, and two that a reader, or a model without capitals, takes for one."""
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


def _classify(
    rows: list[RawExample], words: dict[str, str], labels: list[str], settings: TaskSettings, split: str
) -> LabeledExamples:
    unknown = {label for _, label in rows} - words.keys()
    if unknown:
        named = ", ".join(repr(label) for label in list(words)[:20]) + (", ..." if len(words) > 20 else "")
        source = "task.labels" if settings.labels or settings.format in LABELS else "the labels of the train rows"
        raise UserError(
            f"{place(settings)}: {split} rows have the label {min(unknown)[:LONGEST_LABEL]!r}, "
            f"which is not among {source} ({named})"
        )
    numbers = {label: number for number, label in enumerate(labels)}
    classes = {label: numbers[name] for label, name in words.items()}
    return [(example, classes[label]) for example, label in rows]
