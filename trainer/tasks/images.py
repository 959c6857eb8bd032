"""Labelled images: from folders, from the hub, or laid out as CoOp lays out its data sets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.settings import TaskSettings
from trainer.paths import find_folder
from trainer.tasks.class_folders import read_class_folders
from trainer.tasks.coop import read_coop
from trainer.tasks.examples import Example
from trainer.tasks.hub import load_hub
from trainer.tasks.raw import RawExample, find_splits, place
from trainer.tasks.tables import as_text

SPLITS = {"train": ["train"], "dev": ["dev", "validation", "val"], "test": ["test"]}
"""The names of each split, in folders and on the hub; the first that is present counts."""


def read_images(settings: TaskSettings) -> dict[str, list[RawExample]]:
    """Read the splits "train", "dev" and "test"; the raw label is the class's name in the data.

    A folder without splits is all "train". Files are not opened; images of the hub stay encoded.

    Raises:
        UserError: no such data, or it has another layout.
    """
    if settings.path is None:
        return _read_hub(settings)
    folder = find_folder(settings.path, "task.path")
    try:
        return read_coop(folder, settings.config) or _read_folder(folder)
    except OSError as error:
        raise UserError(f"task.path = {settings.path!r} cannot be read: {error.strerror}: {error.filename}") from None


def _read_folder(folder: Path) -> dict[str, list[RawExample]]:
    splits = find_splits(SPLITS, [entry.name for entry in folder.iterdir() if entry.is_dir()])
    if not splits:
        return {"train": read_class_folders(folder)}
    return {split: read_class_folders(folder / name) for split, name in splits.items()}


def _read_hub(settings: TaskSettings) -> dict[str, list[RawExample]]:
    tables = load_hub(settings)
    splits = {split: list(_rows(tables[name], settings, name)) for split, name in find_splits(SPLITS, tables).items()}
    return {split: rows for split, rows in splits.items() if rows}


def _rows(table: Any, settings: TaskSettings, split: str) -> Iterator[RawExample]:
    """The rows of a split; none if no row has a label (null, or -1 for numbered classes)."""
    import datasets

    for key, column in (("task.image", settings.image), ("task.label", settings.label)):
        if column not in table.column_names:
            columns = ", ".join(table.column_names)
            raise UserError(
                f"{place(settings)}: the {split} rows have no column {column!r} ({key}); they have {columns}"
            )
    if not isinstance(table.features[settings.image], datasets.Image):
        raise UserError(
            f"{place(settings)}: column {settings.image!r} (task.image) of the {split} rows holds no images "
            f"but {table.features[settings.image]}"
        )
    images = table.cast_column(settings.image, datasets.Image(decode=False))[settings.image]
    labels = _raw_labels(table, settings.label)
    if all(label is None for label in labels):
        return
    for number, (cell, label) in enumerate(zip(images, labels, strict=True), 1):
        image = _undecoded(cell)
        if image is None or label is None:
            missing = settings.image if image is None else settings.label
            raise UserError(
                f"{place(settings)}: {split} row {number} has no {missing!r}, though others have; remove it"
            )
        yield Example(image=image), label


def _undecoded(cell: dict[str, Any] | None) -> bytes | Path | None:
    """The encoded image or its file; None if there is neither."""
    if cell is None:
        return None
    return cell["bytes"] or (Path(cell["path"]) if cell["path"] else None)


def _raw_labels(table: Any, column: str) -> list[str | None]:
    """The labels as text, numbered classes by their names; None if the label is hidden."""
    names = getattr(table.features[column], "names", None)
    if names:
        return [names[value] if value is not None and value >= 0 else None for value in table[column]]
    return [as_text(value) for value in table[column]]
