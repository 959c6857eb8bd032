"""Label new examples with a finished run: `python -m trainer.predict RUN "text" ...`."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from shared import logs
from shared.errors import UserError, run_command
from shared.settings import BackboneSettings, PromptSettings, TaskSettings
from trainer.backbones import choose_device, load_family
from trainer.backbones.backbone import Backbone
from trainer.examples import Example
from trainer.export import DESCRIPTION, TENSORS
from trainer.folder import find_run, read_json
from trainer.pool import Tuned
from trainer.tasks.forms import UnreadableRow, form_reader

Item = str | Path | Mapping[str, Any]
"""A text, two texts with a tab between them, the file of an image, or a row with the columns of the task's data."""

BATCH = 256
"""Examples labelled in one pass."""


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
        if not (folder / DESCRIPTION).is_file():
            raise UserError(f"{folder} has no result yet; finish it with `python -m trainer --resume {folder.name}`")
        description = read_json(folder / DESCRIPTION)
        device = choose_device("auto")
        try:
            task = TaskSettings(**description["task"])
            backbone = BackboneSettings(**description["backbone"]), PromptSettings(**description["prompt"])
            labels = [str(label) for label in description["labels"]]
            tensors = {name: tensor.to(device) for name, tensor in load_file(folder / TENSORS).items()}
            tuned = _tuned(tensors)
        except (KeyError, TypeError, ValidationError, OSError, SafetensorError) as error:
            raise UserError(f"{folder / 'best'} is damaged: {error}") from None
        return cls(task, labels, load_family(*backbone, labels, task.form, device), tuned)

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
        if task.form == "image":
            if isinstance(item, Mapping) or not Path(item).is_file():
                raise UserError(f"example {number}: there is no image file {str(item)!r}")
            return [Example(image=Path(item))]
        if isinstance(item, Mapping):
            try:
                return [example for example, _ in form_reader(task)({task.label: None, **item})]
            except UnreadableRow as fault:
                raise UserError(f"example {number}: {fault}") from None
        if task.form in NEED_ROWS:
            raise UserError(f"example {number}: task {task.form} needs rows with its columns, from a .jsonl file")
        texts = tuple(str(item).split("\t", 1))
        return [Example((texts,), dict(zip(("text", "text2"), texts, strict=False)))]

    def _prediction(self, row: list[float]) -> Prediction:
        ranked = sorted(zip(self.labels, row, strict=True), key=lambda pair: -pair[1])
        return Prediction(ranked[0][0], dict(ranked))


NEED_ROWS = ("copa", "multirc", "record", "wic", "wsc")
"""Forms that make more of a row than its texts."""


def _tuned(tensors: dict[str, Tensor]) -> Tuned:
    head = {name.removeprefix("head."): tensor for name, tensor in tensors.items() if name.startswith("head.")}
    return Tuned(tensors["prompt.0"], head, tensors.get("class_vectors"))


class _Parser(argparse.ArgumentParser):
    """Says in one line what was wrong."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` explains its use")


def main() -> int:
    """Label examples from the command line, a file or standard input, one line each."""
    parser = _Parser(prog="python -m trainer.predict", description="Label examples with a finished run's best prompt.")
    parser.add_argument("run", metavar="RUN", help="a run's folder, its name in runs/, or latest")
    parser.add_argument(
        "items",
        metavar="EXAMPLE",
        nargs="*",
        help="texts (of two, with a tab between them) or image files; without any, lines of standard input",
    )
    parser.add_argument(
        "--file", type=Path, help="a file with one example a line; .jsonl: rows with the data's columns"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with all probabilities")
    options = parser.parse_intermixed_args()  # options may stand between RUN and texts
    logs.set_up()
    disable_progress_bar()  # type: ignore[no-untyped-call] # set_up came too late for transformers
    items = _items(options.items, options.file)
    classifier = Classifier.load(options.run)
    examples = classifier.read(items)
    for example, prediction in zip(examples, classifier.label(examples), strict=True):
        print(_line(_shown(example), prediction, options.json))
    return 0


def _items(given: list[str], file: Path | None) -> list[Item]:
    if given and file:
        raise UserError("give examples or --file, not both")
    try:
        lines = given or (file.read_text(encoding="utf-8") if file else sys.stdin.read()).splitlines()
        "".join(lines).encode()
    except (OSError, UnicodeError) as error:
        place = file or ("EXAMPLE" if given else "standard input")
        raise UserError(f"{place}: cannot be read as text: {error}") from None
    if file and file.suffix == ".jsonl":
        return [_row(line, f"{file} line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    texts: list[Item] = [line for line in lines if line.strip()]
    if not texts:
        raise UserError("there is nothing to label")
    return texts


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{place}: not a JSON object")
    return row


def _shown(example: Example) -> str:
    if example.image is not None:
        return str(example.image)
    return " | ".join("\t".join(choice) for choice in example.choices)


def _line(shown: str, prediction: Prediction, as_json: bool) -> str:
    if as_json:
        return json.dumps(
            {"example": shown, "label": prediction.label, "probabilities": prediction.probabilities}, ensure_ascii=False
        )
    others = ", ".join(f"{label} {share:.2f}" for label, share in list(prediction.probabilities.items())[1:4])
    return f"{prediction.label}  {prediction.probabilities[prediction.label]:.2f}  ({others})  {shown}"


if __name__ == "__main__":
    run_command(main)
