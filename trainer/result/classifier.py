"""What a finished run found, ready to label new examples."""

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
from trainer.tasks.formats import UnreadableRow, format_reader

Item = str | Path | Mapping[str, Any]
"""A text, two texts with a tab between them, the file of an image, or a row with the columns of the task's data."""

BATCH = 256
"""Examples labelled in one pass."""

NEED_ROWS = ("copa", "multirc", "record", "wic", "wsc")
"""Forms that make more of a row than its texts."""


@dataclass(frozen=True)
class Prediction:
    """A label and how sure it is."""

    label: str
    probabilities: dict[str, float]
    """By label, the likeliest first."""


class Classifier:
    """What a run found, ready to label examples."""

    def __init__(self, task: TaskSettings, labels: list[str], backbone: Backbone, tuned: Tuned) -> None:
        self._task = task
        self.labels = labels
        self._backbone = backbone
        self._tuned = tuned

    @classmethod
    def load(cls, run: str) -> "Classifier":
        """Load a finished run by its folder, its name in `runs`, or `latest`.

        Raises:
            UserError: there is no such run, or it is not finished.
        """
        folder = find_run(run)
        if not (folder / BEST_DESCRIPTION).is_file():
            raise UserError(f"{folder} has no result yet; finish it with `python -m trainer --resume {folder.name}`")
        description = read_json(folder / BEST_DESCRIPTION)
        device = choose_device("auto")
        try:
            task = TaskSettings(**description["task"])
            backbone = BackboneSettings(**description["backbone"]), PromptSettings(**description["prompt"])
            labels = [str(label) for label in description["labels"]]
            tensors = {name: tensor.to(device) for name, tensor in load_file(folder / BEST_TENSORS).items()}
            tuned = _tuned(tensors)
        except (KeyError, TypeError, ValidationError, OSError, SafetensorError) as error:
            raise UserError(f"{folder / 'best'} is damaged: {error}") from None
        return cls(task, labels, load_family(*backbone, labels, task.format, device), tuned)

    def read(self, items: Sequence[Item]) -> list[Example]:
        """The examples that items stand for: one each, but for rows that hold several (MultiRC, ReCoRD).

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

    def _read(self, item: Item, number: int) -> list[Example]:
        task = self._task
        if task.format == "image":
            if isinstance(item, Mapping) or not Path(item).is_file():
                raise UserError(f"example {number}: there is no image file {str(item)!r}")
            return [Example(image=Path(item))]
        if isinstance(item, Mapping):
            try:
                return [example for example, _ in format_reader(task)({task.label: None, **item})]
            except UnreadableRow as fault:
                raise UserError(f"example {number}: {fault}") from None
        if task.format in NEED_ROWS:
            raise UserError(f"example {number}: task {task.format} needs rows with its columns, from a .jsonl file")
        texts = tuple(str(item).split("\t", 1))
        return [Example((texts,), dict(zip(("text", "text2"), texts, strict=False)))]

    def _prediction(self, row: list[float]) -> Prediction:
        ranked = sorted(zip(self.labels, row, strict=True), key=lambda pair: -pair[1])
        return Prediction(ranked[0][0], dict(ranked))


def _tuned(tensors: dict[str, Tensor]) -> Tuned:
    head = {name.removeprefix("head."): tensor for name, tensor in tensors.items() if name.startswith("head.")}
    return Tuned(tensors["prompt.0"], head, tensors.get("class_vectors"))
