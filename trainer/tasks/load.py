"""A task, from its settings."""

from shared.errors import UserError
from shared.settings import TaskSettings
from trainer.tasks.draw import LabeledExamples, draw_splits
from trainer.tasks.examples import Task
from trainer.tasks.formats import LABELS
from trainer.tasks.images import read_images
from trainer.tasks.labels import LONGEST_LABEL, label_words
from trainer.tasks.raw import RawExample, place
from trainer.tasks.read import read_rows


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
    words = label_words(settings, raw)
    labels = list(dict.fromkeys(words.values()))
    rows = {split: _classify(split_rows, words, labels, settings, split) for split, split_rows in raw.items()}
    return Task(settings.format, settings.description, labels, *draw_splits(rows, settings, labels, seed))


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
