"""`python -m trainer.report RUN [RUN ...]`: write the report of one run, or of several side by side."""

import argparse
from pathlib import Path
from typing import NoReturn

from shared.errors import UserError, run_command
from trainer.report.page import REPORT, render, write
from trainer.report.run import Run, find_runs


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `python -m trainer.report --help` explains the options")


def main() -> int:
    """Read the command line and write the page; the exit status."""
    parser = _Parser(prog="python -m trainer.report", description="Write a report as one HTML file.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's name or directory, or a folder of runs")
    parser.add_argument("--folder", default="runs", help="where named runs are kept; default: runs")
    parser.add_argument("--out", type=Path, help="file to write; default: report.html in the directory given")
    options = parser.parse_args()
    named = [_locate(name, options.folder) for name in options.runs]
    paths = list(dict.fromkeys(path for folder in named for path in find_runs(folder)))
    if options.out is None and len(named) > 1:
        raise UserError("several directories were given: name the file to write with --out FILE")
    print(write(options.out or named[0] / REPORT, render([Run(path) for path in paths])))
    return 0


def _locate(name: str, folder: str) -> Path:
    for path in (Path(name), Path(folder) / name):
        if path.is_dir():
            return path.resolve()
    raise UserError(f"no run {name!r}: there is neither a directory {name} nor {folder}/{name}")


if __name__ == "__main__":
    run_command(main)
