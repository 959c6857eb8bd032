"""The result of a finished run, ready to label new examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from shared.errors import UserError
from shared.settings import BackboneSettings, PromptSettings, TaskSettings
from trainer.backbones import choose_device, load_family
from trainer.backbones.backbone import Backbone
from trainer.runs.directory import BEST_DESCRIPTION, BEST_TENSORS, find_run, read_json
from trainer.search.pool import Tuned
from trainer.tasks.examples import Example
from trainer.tasks.formats import MissingColumn, UnreadableRow, format_reader, text_columns, wanted_columns
from trainer.tasks.tables import as_text

Item = str | Path | Mapping[str, Any]
"""A text, two texts separated by a tab if the task has two, an image file, or a row with the task's columns."""

BATCH = 256
"""Examples labelled in one pass."""


@dataclass(frozen=True)
class Prediction:
    """A label and the probabilities of all."""

    label: str
    probabilities: dict[str, float]
    """By label, the likeliest first."""


class Classifier:
    """The result of a run, ready to label examples."""

    def __init__(
        self, task: TaskSettings, labels: list[str], backbone: Backbone, tuned: Tuned, template: str = ""
    ) -> None:
        self._task = task
        self._template = template
        self.labels = labels
        self._backbone = backbone
        self._tuned = tuned

    @classmethod
    def load(cls, run: str, device: str = "auto") -> "Classifier":
        """Load a finished run by its folder, its name in `runs`, or `latest`.

        Args:
            run: folder or name.
            device: as the setting `device`.

        Raises:
            UserError: no such run or device, or the run is not finished.
        """
        folder = find_run(run)
        if not (folder / BEST_DESCRIPTION).is_file():
            raise UserError(f"{folder} has no result yet; finish it with `python -m trainer --resume {folder.name}`")
        description = read_json(folder / BEST_DESCRIPTION)
        place = choose_device(device)
        try:
            task = TaskSettings(**description["task"])
            backbone = BackboneSettings(**description["backbone"]), PromptSettings(**description["prompt"])
            labels = [str(label) for label in description["labels"]]
            tensors = {name: tensor.to(place) for name, tensor in load_file(folder / BEST_TENSORS).items()}
            tuned, kind = _tuned(tensors), str(description["class"])
        except (KeyError, TypeError, ValidationError, OSError, SafetensorError) as error:
            raise UserError(f"{folder / 'best'} is damaged: {error}") from None
        loaded = load_family(*backbone, labels, task.format, place)
        if type(loaded).__name__ != kind:
            raise UserError(
                f"{folder / 'best'} was tuned with a backbone of your own, {kind}; label with that backbone and the "
                f"tensors in {BEST_TENSORS}"
            )
        if description.get("model", loaded.vocabulary.fingerprint) != loaded.vocabulary.fingerprint:
            raise UserError(
                f"{folder}: its model is not the one that it was tuned for any more; restore the files of the model"
            )
        if not _fits(tuned, loaded, len(labels)) or not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise UserError(f"{folder / 'best'} is damaged: its tensors do not fit {len(labels)} labels and the model")
        return cls(task, labels, loaded, tuned, backbone[0].template)

    def read(self, items: Sequence[Item]) -> list[Example]:
        """The examples of items: one each, except for rows that hold several (MultiRC, ReCoRD).

        Raises:
            UserError: an item is not what the task needs.
        """
        return [example for number, item in enumerate(items, 1) for example in self._read(item, number)]

    @torch.no_grad()
    def label(self, examples: Sequence[Example]) -> list[Prediction]:
        """Label examples, in their order."""
        found: list[Prediction] = []
        for start in range(0, len(examples), BATCH):
            rows = self._backbone.prepare(list(examples[start : start + BATCH]), "examples", lambda: None)
            found += map(self._prediction, self._tuned.logits(self._backbone, rows).softmax(-1).tolist())
        return found

    def predict(self, items: Sequence[Item]) -> list[Prediction]:
        """Label items, in their order."""
        return self.label(self.read(items))

    @property
    def wanted(self) -> list[str]:
        """The columns that `read` takes of a row."""
        return wanted_columns(self._task, self._template)

    def _read(self, item: Item, number: int) -> list[Example]:
        task = self._task
        if task.format == "image":
            if isinstance(item, Mapping) or not Path(item).is_file():
                raise UserError(f"example {number}: no such image file {str(item)!r}")
            return [Example(image=Path(item))]
        if isinstance(item, Mapping):
            try:
                row = {column: as_text(item[column]) for column in self.wanted if column in item}
                return [example for example, _ in format_reader(task)({task.label: None, **row})]
            except UnreadableRow as fault:
                there = f"; there are {', '.join(item)}" if isinstance(fault, MissingColumn) else ""
                raise UserError(f"example {number}: {fault}{there}") from None
        columns = text_columns(task)
        texts = tuple(str(item).split("\t", 1)) if len(columns) > 1 else (str(item),)
        if len(texts) != len(columns):
            needs = f"two texts with a tab between them ({', '.join(columns)})" if columns else "a row with its columns"
            raise UserError(f"example {number}: the task needs {needs}; give it, or rows in a .jsonl or .csv file")
        named = [*zip(columns, texts, strict=True), *zip(("text", "text2"), texts, strict=False)]
        return [Example((texts,), dict(named))]

    def _prediction(self, row: list[float]) -> Prediction:
        ranked = sorted(zip(self.labels, row, strict=True), key=lambda pair: -pair[1])
        return Prediction(ranked[0][0], dict(ranked))


def _tuned(tensors: dict[str, Tensor]) -> Tuned:
    head = {name.removeprefix("head."): tensor for name, tensor in tensors.items() if name.startswith("head.")}
    return Tuned(tensors["prompt.0"], head, tensors.get("class_embeddings"))


def _fits(tuned: Tuned, backbone: Backbone, classes: int) -> bool:
    """Whether shapes are those that the backbone tunes."""
    if tuned.class_embeddings is not None and len(tuned.class_embeddings) != classes:
        return False
    shapes = {name: value.shape for name, value in tuned.head.items()}
    expected = {name: value.shape for name, value in backbone.new_head(0).items()}
    return shapes == expected and tuned.prompt.shape[1:] == backbone.vocabulary.embeddings.shape[1:]
