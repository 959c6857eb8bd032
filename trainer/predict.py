"""Label new texts with a finished run: `python -m trainer.predict RUN "text" ...`."""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from shared import logs
from shared.errors import UserError, run_command
from shared.settings import BackboneSettings
from trainer.backbones import choose_device
from trainer.backbones.dual_encoder import DualEncoder
from trainer.export import DESCRIPTION, TENSORS
from trainer.folder import find_run, read_json


@dataclass(frozen=True)
class Prediction:
    """A label and how sure it is."""

    label: str
    probabilities: dict[str, float]
    """By label, the likeliest first."""


class Classifier:
    """What a run found, ready to label texts."""

    def __init__(self, backbone: DualEncoder, labels: list[str], class_vectors: Tensor) -> None:
        self._backbone = backbone
        self.labels = labels
        self._class_vectors = class_vectors

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
        try:
            settings = BackboneSettings(**description["backbone"])
            labels = [str(label) for label in description["labels"]]
            vectors = load_file(folder / TENSORS)["class_vectors"]
        except (KeyError, TypeError, ValidationError, OSError, SafetensorError) as error:
            raise UserError(f"{folder / 'best'} is damaged: {error}") from None
        device = choose_device("auto")
        return cls(DualEncoder(settings, labels, device), labels, vectors.to(device))

    @torch.no_grad()
    def predict(self, texts: list[str]) -> list[Prediction]:
        """Label texts, in their order."""
        if not texts:
            return []
        encoded = self._backbone.encode(texts, "texts")
        rows = self._backbone.classify(self._class_vectors[None], encoded)[0].softmax(-1).tolist()
        return [self._prediction(row) for row in rows]

    def _prediction(self, row: list[float]) -> Prediction:
        ranked = sorted(zip(self.labels, row, strict=True), key=lambda pair: -pair[1])
        return Prediction(ranked[0][0], dict(ranked))


class _Parser(argparse.ArgumentParser):
    """Says in one line what was wrong."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` explains its use")


def main() -> int:
    """Label texts from the command line, a file or standard input, one line each."""
    parser = _Parser(prog="python -m trainer.predict", description="Label texts with a finished run's best prompt.")
    parser.add_argument("run", metavar="RUN", help="a run's folder, its name in runs/, or latest")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="texts to label; without any, lines of standard input")
    parser.add_argument("--file", type=Path, help="a file with one text a line")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with all probabilities")
    options = parser.parse_intermixed_args()  # options may stand between RUN and texts
    logs.set_up()
    disable_progress_bar()  # type: ignore[no-untyped-call] # set_up came too late for transformers
    texts = _texts(options.texts, options.file)
    for text, prediction in zip(texts, Classifier.load(options.run).predict(texts), strict=True):
        print(_line(text, prediction, options.json))
    return 0


def _texts(given: list[str], file: Path | None) -> list[str]:
    if given and file:
        raise UserError("give texts or --file, not both")
    try:
        lines = given or (file.read_text(encoding="utf-8") if file else sys.stdin.read()).splitlines()
        "".join(lines).encode()
    except (OSError, UnicodeError) as error:
        place = file or ("TEXT" if given else "standard input")
        raise UserError(f"{place}: cannot be read as text: {error}") from None
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise UserError("there is no text to label")
    return texts


def _line(text: str, prediction: Prediction, as_json: bool) -> str:
    if as_json:
        return json.dumps(
            {"text": text, "label": prediction.label, "probabilities": prediction.probabilities}, ensure_ascii=False
        )
    others = ", ".join(f"{label} {share:.2f}" for label, share in list(prediction.probabilities.items())[1:4])
    return f"{prediction.label}  {prediction.probabilities[prediction.label]:.2f}  ({others})  {text}"


if __name__ == "__main__":
    run_command(main)
