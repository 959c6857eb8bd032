"""Labelled examples: read, sampled by seed, and split so that test data stays apart."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import UserError
from shared.settings import TaskSettings
from trainer.places import find_folder

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
SPLITS = {"train": ["train"], "dev": ["dev", "validation"], "test": ["test"]}


@dataclass(frozen=True)
class Split:
    """Texts and their classes; `targets` is [examples], int64."""

    texts: list[str]
    targets: Tensor


@dataclass(frozen=True)
class Task:
    """What is to be learned. `labels` are the words that name the classes, in order."""

    describe: str
    labels: list[str]
    train: Split
    dev: Split
    test: Split


def load_task(settings: TaskSettings, seed: int) -> Task:
    """Read a task and draw its few shots.

    Test is the whole test file. Training and development examples are drawn by `seed`, class by
    class, and none of their texts stands in test or twice.

    Raises:
        UserError: no such data, no such column, an unknown label, too few rows.
    """
    raw = _read(settings)
    labels = list(dict.fromkeys(settings.labels.values())) or sorted({label for _, label in raw["train"]})
    if len(labels) < 2:
        raise UserError(f"{_place(settings)}: the training rows name fewer than two classes")
    rows = {split: _classify(rows, labels, settings, split) for split, rows in raw.items()}
    test = _cap(rows["test"], settings.test_rows)
    taken = {text for text, _ in rows["test"]}
    train = _draw(rows["train"], settings.shots, labels, seed, taken, "task.shots")
    dev = _draw(rows.get("dev", rows["train"]), settings.dev_shots, labels, seed, taken, "task.dev_shots")
    return Task(settings.describe, labels, _split(train), _split(dev), _split(test))


def _read(settings: TaskSettings) -> dict[str, list[tuple[str, str]]]:
    data = _load_folder(find_folder(settings.path, "task.path")) if settings.path else _load_hub(settings)
    tables: dict[str, list[tuple[str, str]]] = {}
    for split, names in SPLITS.items():
        name = next((name for name in names if name in data), None)
        if name is not None:
            tables[split] = list(_rows(data[name], settings, name))
    for split in ("train", "test"):
        if not tables.get(split):
            raise UserError(f"{_place(settings)}: there are no {split} rows; a {split} file is needed")
    return tables


def _place(settings: TaskSettings) -> str:
    return f"task.path = {settings.path!r}" if settings.path else f"task.hub = {settings.hub!r}"


def _load_folder(folder: Path) -> Any:
    from datasets import DatasetDict, load_dataset
    from datasets.exceptions import DatasetGenerationError

    splits = DatasetDict()
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


def _load_hub(settings: TaskSettings) -> Any:
    from datasets import load_dataset

    if settings.hub is None:
        raise UserError("the task has no data: set task.path to a folder with train and test files, or task.hub")
    try:
        return load_dataset(settings.hub)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"task.hub = {settings.hub!r} cannot be fetched ({reason}); set task.path to a local folder instead"
        ) from None


def _rows(table: Any, settings: TaskSettings, split: str) -> Iterator[tuple[str, str]]:
    for key, column in (("task.text", settings.text), ("task.label", settings.label)):
        if column not in table.column_names:
            columns = ", ".join(table.column_names)
            raise UserError(
                f"{_place(settings)}: the {split} rows have no column {column!r} ({key}); they have {columns}"
            )
    names = getattr(table.features[settings.label], "names", None)
    for number, (text, label) in enumerate(zip(table[settings.text], table[settings.label], strict=True), 1):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{_place(settings)}: {split} row {number}: column {settings.text!r} holds no text")
        yield text, names[label] if names and isinstance(label, int) and label >= 0 else str(label)


def _classify(
    rows: list[tuple[str, str]], labels: list[str], settings: TaskSettings, split: str
) -> list[tuple[str, int]]:
    words = settings.labels or {label: label for label in labels}
    unknown = {label for _, label in rows} - words.keys()
    if unknown:
        raise UserError(
            f"{_place(settings)}: {split} rows have the label {min(unknown)!r}, "
            f"which is not among task.labels ({', '.join(words)})"
        )
    return [(text, labels.index(words[label])) for text, label in rows]


def _draw(
    rows: list[tuple[str, int]], shots: int, labels: list[str], seed: int, taken: set[str], key: str
) -> list[tuple[str, int]]:
    """Draw `shots` rows a class whose texts are not in `taken`, and add their texts to it."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn: list[tuple[str, int]] = []
    for target, label in enumerate(labels):
        found = 0
        for text, row_target in (rows[index] for index in order):
            if found < shots and row_target == target and text not in taken:
                taken.add(text)
                drawn.append((text, target))
                found += 1
        if found < shots:
            raise UserError(f"{key} = {shots}, but only {found} rows of class {label!r} are left to draw from")
    return drawn


def _cap(rows: list[tuple[str, int]], most: int | None) -> list[tuple[str, int]]:
    if most is None or most >= len(rows):
        return rows
    return [rows[index] for index in torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:most]]


def _split(rows: list[tuple[str, int]]) -> Split:
    return Split([text for text, _ in rows], torch.tensor([target for _, target in rows]))
