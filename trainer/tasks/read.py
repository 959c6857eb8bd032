"""Rows of text: tables from a folder or the hub, each row read as the task's form says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.settings import TaskSettings
from trainer.paths import find_folder
from trainer.tasks.formats import LABELS, UnreadableRow, format_reader
from trainer.tasks.hub import load_hub
from trainer.tasks.raw import RawExample, find_splits, place

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
SPLITS = {"train": ["train"], "dev": ["dev", "validation", "val", "dev32", "validation_matched"], "test": ["test"]}
"""What each split is called in files and on the hub; the first that is there counts."""


def read_rows(settings: TaskSettings) -> dict[str, list[RawExample]]:
    """The labelled rows of each split that is there: "train", "dev", "test".

    A split whose labels are all hidden (none, or -1 where labels are numbers of classes) counts as not there.

    Raises:
        UserError: there is no such data, or a row that the form cannot read.
    """
    tables = _load_folder(find_folder(settings.path, "task.path")) if settings.path else load_hub(settings)
    return {split: list(_rows(tables[name], settings, name)) for split, name in find_splits(SPLITS, tables).items()}


def _load_folder(folder: Path) -> dict[str, Any]:
    from datasets import config, load_dataset
    from datasets.exceptions import DatasetGenerationError

    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else each local file is reported to a server, and slow without network
    splits = {}
    for name in (name for names in SPLITS.values() for name in names):
        files = [path for path in sorted(folder.glob(f"{name}.*")) if path.suffix in FORMATS]
        if len(files) > 1:
            raise UserError(f"{folder}: both {files[0].name} and {files[1].name} hold the {name} split; keep one")
        for path in files:
            try:
                splits[name] = load_dataset(FORMATS[path.suffix], data_files=str(path), split="train")
            except (DatasetGenerationError, ValueError, OSError, StopIteration) as error:  # the last: an empty file
                reason = next(iter(str(error.__cause__ or error).splitlines()), "there is nothing in it")
                raise UserError(f"{path}: cannot be read as {FORMATS[path.suffix]}: {reason}") from None
    return splits


def _rows(table: Any, settings: TaskSettings, split: str) -> Iterator[RawExample]:
    """The examples of a split with their raw labels; none where all labels are hidden."""
    read = format_reader(settings)
    feature = table.features.get(settings.label if settings.format == "text" else "label")
    names = getattr(feature, "names", None) or list(LABELS.get(settings.format, ()))
    hidden = None
    labelled = 0
    for number, row in enumerate(table.to_list(), 1):
        try:
            for example, value in read(row):
                label = _raw_label(value, names)
                if label is None:
                    hidden = number
                else:
                    labelled += 1
                    yield example, label
        except UnreadableRow as fault:
            raise UserError(f"{place(settings)}: {split} row {number}: {fault}") from None
    if labelled and hidden is not None:
        raise UserError(f"{place(settings)}: {split} row {hidden} has no label, though others have one; take it out")


def _raw_label(value: Any, names: list[str]) -> str | None:
    """The label as text: the name of a numbered class, or the value itself. None where it is hidden."""
    if value is None or (names and value == -1):
        return None
    if type(value) is int and 0 <= value < len(names):
        return names[value]
    return str(value)
