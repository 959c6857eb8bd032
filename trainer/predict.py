"""Label new examples with a finished run: `python -m trainer.predict RUN "text" ...`."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from shared import logs
from shared.errors import UserError, run_command
from trainer.threads import wait_briefly

if TYPE_CHECKING:  # these load torch
    from trainer.result.classifier import Item, Prediction
    from trainer.tasks.examples import Example


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
    logs.set_up(sys.stderr)  # standard output holds nothing but labels
    items = _items(options.items, options.file)
    wait_briefly()
    from trainer.result.classifier import Classifier  # here, so that wrong use answers at once and libraries stay quiet

    classifier = Classifier.load(options.run)
    examples = classifier.read(items)
    for example, prediction in zip(examples, classifier.label(examples), strict=True):
        print(_line(_shown(example), prediction, options.json))
    return 0


def _items(given: list[str], file: Path | None) -> "list[Item]":
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


def _shown(example: "Example") -> str:
    if example.image is not None:
        return str(example.image)
    return " | ".join("\t".join(choice) for choice in example.choices)


def _line(shown: str, prediction: "Prediction", as_json: bool) -> str:
    if as_json:
        return json.dumps(
            {"example": shown, "label": prediction.label, "probabilities": prediction.probabilities}, ensure_ascii=False
        )
    others = ", ".join(f"{label} {share:.2f}" for label, share in list(prediction.probabilities.items())[1:4])
    return f"{prediction.label}  {prediction.probabilities[prediction.label]:.2f}  ({others})  {shown}"


def command() -> NoReturn:
    """The console script tandem-predict."""
    run_command(main)


if __name__ == "__main__":
    command()
