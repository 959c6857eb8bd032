"""Rows of text: tables from a folder or the hub, each row read as the task's format says."""

from collections.abc import Collection, Iterator
from pathlib import Path

from shared.errors import UserError
from shared.settings import TaskSettings
from trainer.paths import find_folder
from trainer.tasks.formats import MissingColumn, UnreadableRow, format_reader, raw_label, wanted_columns
from trainer.tasks.hub import load_hub
from trainer.tasks.raw import RawExample, find_splits, place
from trainer.tasks.tables import READERS, Table, from_arrow, read_table

SPLITS = {"train": ["train"], "dev": ["dev", "validation", "val", "dev32", "validation_matched"], "test": ["test"]}
"""The names of each split, in files and on the hub; the first that is present counts."""


def read_rows(settings: TaskSettings, template: str) -> dict[str, list[RawExample]]:
    """The labelled rows of each split: "train", "dev", "test".

    A split without labels (none, or -1 for numbered classes) counts as absent.

    Args:
        settings: of the task.
        template: of a decoder; the columns in its braces are read too.

    Raises:
        UserError: no such data, or a row that the format cannot read.
    """
    wanted = wanted_columns(settings, template)
    read = _read_folder if settings.path else _read_hub
    return {split: list(_rows(table, settings)) for split, table in read(settings, wanted).items()}


def _read_folder(settings: TaskSettings, wanted: Collection[str]) -> dict[str, Table]:
    folder = find_folder(str(settings.path), "task.path")
    files: dict[str, Path] = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in READERS or not any(path.stem in names for names in SPLITS.values()):
                continue
            if other := files.get(path.stem):
                raise UserError(f"{folder}: both {other.name} and {path.name} hold the {path.stem} split; keep one")
            files[path.stem] = path
    except OSError as error:
        raise UserError(f"task.path = {settings.path!r} cannot be read: {error.strerror}: {error.filename}") from None
    return {split: _named(read_table(files[name], wanted), name) for split, name in find_splits(SPLITS, files).items()}


def _read_hub(settings: TaskSettings, wanted: Collection[str]) -> dict[str, Table]:
    tables = {}
    splits = load_hub(settings)
    for split, name in find_splits(SPLITS, splits).items():
        data = splits[name]
        asked = data.select_columns([column for column in wanted if column in data.column_names])
        tables[split] = _named(from_arrow(asked.with_format("arrow")[:], data.column_names, place(settings)), name)
    return tables


def _named(table: Table, split: str) -> Table:
    """The table with the split in its origin, so that errors name both."""
    return Table(f"{table.origin}: {split}", table.columns, table.rows)


def _rows(table: Table, settings: TaskSettings) -> Iterator[RawExample]:
    """The examples of a split with their raw labels; none if no row has a label."""
    read = format_reader(settings)
    hidden = None
    labelled = 0
    for number, row in enumerate(table.rows, 1):
        try:
            for example, value in read(row):
                label = raw_label(value, settings.format)
                if label is None:
                    hidden = number
                    continue
                if label != label.strip() and label not in settings.labels:
                    raise UnreadableRow(f"the label {label!r} begins or ends with a blank; remove it")
                labelled += 1
                yield example, label
        except UnreadableRow as fault:
            columns = f"; there are {', '.join(table.columns)}" if isinstance(fault, MissingColumn) else ""
            raise UserError(f"{table.origin} row {number}: {fault}{columns}") from None
    if labelled and hidden is not None:
        raise UserError(f"{table.origin} row {hidden} has no label, though others have one; remove it")
