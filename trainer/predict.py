"""Label new examples with a finished run: `python -m trainer.predict RUN "text" ...`."""

import argparse
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from shared import logs
from shared.errors import UserError, run_command
from shared.text import escape_json, printable
from shared.text_files import read_text, split_lines
from trainer.threads import wait_briefly

if TYPE_CHECKING:  # these load torch
    from trainer.result.classifier import Prediction
    from trainer.tasks.examples import Example


class _Parser(argparse.ArgumentParser):
    """Reports wrong use in one line."""

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
        help="texts (two with a tab between them if the task has two) or image files; without any, lines of standard "
        "input",
    )
    parser.add_argument(
        "--file",
        type=Path,
        help="rows with the data's columns in a .jsonl, .json, .csv, .tsv or .parquet file, or lines of any other file",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with all probabilities")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    options = parser.parse_intermixed_args()  # options may stand between RUN and texts
    logs.set_up(sys.stderr)  # standard output holds nothing but labels
    if options.items and options.file:
        raise UserError("give examples or --file, not both")
    lines = None if options.file else _lines(options.items, None)
    wait_briefly()
    from trainer.result.classifier import Classifier  # here, so that wrong use answers at once and libraries stay quiet
    from trainer.tasks.tables import READERS, read_table

    if options.file and options.file.suffix.lower() not in READERS:
        lines = _lines([], options.file)
    classifier = Classifier.load(options.run, options.device)
    examples = classifier.read(read_table(options.file, classifier.wanted).rows if lines is None else lines)
    for example, prediction in zip(examples, classifier.label(examples), strict=True):
        print(_line(_shown(example), prediction, options.json))
    return 0


def _lines(given: list[str], file: Path | None) -> list[str]:
    """Texts or image files: those given, or the lines of a file or of standard input, without blank ones."""
    try:
        lines = given or split_lines(read_text(file) if file else _standard_input())
        "".join(lines).encode()  # arguments may hold bytes that are not UTF-8
    except OSError as error:
        raise UserError(f"{file or 'standard input'}: cannot be read: {error.strerror}") from None
    except UnicodeError:
        raise UserError(f"{'EXAMPLE' if given else 'standard input'}: not UTF-8 text") from None
    texts = [line for line in lines if printable(line).strip()]
    if not texts:
        raise UserError("there is nothing to label")
    return texts


def _standard_input() -> str:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict", newline="\n")
    return sys.stdin.read()


def _shown(example: "Example") -> str:
    if example.image is not None:
        return str(example.image)
    return " | ".join("\t".join(choice) for choice in example.choices)


def _line(shown: str, prediction: "Prediction", as_json: bool) -> str:
    if as_json:
        said = {"example": shown, "label": prediction.label, "probabilities": prediction.probabilities}
        return escape_json(json.dumps(said, ensure_ascii=False))
    others = ", ".join(f"{label} {share:.2f}" for label, share in list(prediction.probabilities.items())[1:4])
    return printable(f"{prediction.label}  {prediction.probabilities[prediction.label]:.2f}  ({others})  {shown}")


def command() -> NoReturn:
    """The console script tandem-predict."""
    run_command(main)


if __name__ == "__main__":
    command()
