"""A task, from its settings."""

from shared.errors import UserError
from shared.settings import TaskSettings
from trainer.tasks.draw import LabeledExamples, draw_splits
from trainer.tasks.examples import Task
from trainer.tasks.formats import LABELS
from trainer.tasks.images import read_images
from trainer.tasks.raw import RawExample, place
from trainer.tasks.read import read_rows


def load_task(settings: TaskSettings, seed: int) -> Task:
    """Read a task and draw its training and development examples by `seed`.

    Raises:
        UserError: no such data, no such column, a row that cannot be read, an unknown label, too few rows.
    """
    raw = read_images(settings) if settings.format == "image" else read_rows(settings)
    words = _words(settings, raw)
    labels = list(dict.fromkeys(words.values()))
    rows = {split: _classify(split_rows, words, labels, settings, split) for split, split_rows in raw.items()}
    return Task(settings.format, settings.description, labels, *draw_splits(rows, settings, labels, seed))


def _words(settings: TaskSettings, raw: dict[str, list[RawExample]]) -> dict[str, str]:
    """The words of each raw label, in the order of the classes."""
    own = LABELS.get(settings.format)
    if own is None:
        found = raw.get("train") or [row for rows in raw.values() for row in rows]
        return settings.labels or {label: label for label in sorted({label for _, label in found})}
    if not settings.labels:
        return own
    if settings.labels.keys() != own.keys():
        raise UserError(f"task.labels must name what the form {settings.format} has: {', '.join(own)}")
    return {label: settings.labels[label] for label in own}  # in the form's order, which its measures rely on


def _classify(
    rows: list[RawExample], words: dict[str, str], labels: list[str], settings: TaskSettings, split: str
) -> LabeledExamples:
    unknown = {label for _, label in rows} - words.keys()
    if unknown:
        raise UserError(
            f"{place(settings)}: {split} rows have the label {min(unknown)!r}, "
            f"which is not among task.labels ({', '.join(words)})"
        )
    classes = {label: labels.index(name) for label, name in words.items()}
    return [(example, classes[label]) for example, label in rows]
