"""The trainer as a program."""

import argparse
import logging
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from shared import logs
from shared.config import CommandLine, recipe_names, recipe_summary
from shared.errors import UserError
from shared.text import printable
from trainer import ranks
from trainer.hooks import Hooks
from trainer.runs.directory import CONFIG, find_run, read_json
from trainer.runs.signals import Stopped, StopSignals
from trainer.threads import wait_briefly

if TYPE_CHECKING:  # loads torch
    from trainer.result.run_result import RunResult

log = logging.getLogger(__name__)


def main() -> int:
    """Read the command line and run what it asks for; the exit status."""
    parser = CommandLine("python -m trainer", "Tune a soft prompt with gradients and proposals in words.")
    parser.add_argument("--list", action="store_true", help="list the packaged recipes and exit")
    parser.add_argument("--resume", metavar="RUN", help="continue a run that was stopped, with its settings")
    parser.add_argument("--replay", metavar="RUN", help="repeat a run with its recorded proposals, without an LLM")
    parser.add_argument(
        "--if-exists",
        choices=["fail", "resume"],
        default="fail",
        help="where --name is in use: refuse, or resume that run; a finished one is left alone, with status 0",
    )
    if ranks.is_follower():
        return _follow(parser)
    options = parser.parse_args()
    logs.set_up()
    if options.list:
        for name in recipe_names():
            print(f"{name:24}{recipe_summary(name)}")
        return 0
    if options.resume and options.replay:
        raise UserError("--resume and --replay exclude each other")
    signals = StopSignals(leave=_leave)
    try:
        with signals.installed():
            result = _run(parser, options, signals)
    except Stopped:
        return 128 + signals.number
    except ranks.LostRank as error:
        if error.is_mine_to_report:
            raise
        return 2
    path = result.directory
    end = f"{result}\n\nresult: {path}/best   history: {path}/history.jsonl   summary: {path}/summary.json"
    print("", *map(printable, end.splitlines()), sep="\n")
    return 0


def _follow(parser: CommandLine) -> int:
    """Take part as another rank than the first, which says whatever there is to say."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            options = parser.parse_args()
        except UserError:
            return 2
    if options.list:
        return 0
    logs.set_up()
    signals = StopSignals(leave=_leave)
    wait_briefly()
    from trainer import api

    try:
        with signals.installed():
            api.follow(Hooks(signals=signals))
    except Stopped:
        return 128 + signals.number
    except UserError as error:
        if isinstance(error, ranks.LostRank) and error.is_mine_to_report:
            raise
        return 2
    return 0


def _run(parser: CommandLine, options: argparse.Namespace, signals: StopSignals) -> "RunResult":
    run = options.resume or options.replay
    if run is None:
        settings = parser.resolve(options)
    else:
        folder = getattr(options, "folder", None) or os.environ.get("TANDEM_FOLDER") or "runs"
        path = find_run(run, folder)
        settings = parser.resolve(options, saved=(str(path / CONFIG), read_json(path / CONFIG)))

    wait_briefly()
    from trainer import api  # here, so that --help and bad settings answer at once

    hooks = Hooks(signals=signals)
    if options.resume:
        return api.resume(str(path), settings=settings, hooks=hooks)
    if options.replay:
        return api.replay(str(path), settings=settings, hooks=hooks)
    return api.run(settings, if_exists=options.if_exists, hooks=hooks)


def _leave(signals: StopSignals) -> None:
    """End the process at once: outside of training nothing is lost, and an exception could hit an import."""
    if signals.farewell:
        log.info(signals.farewell)
    sys.stdout.flush()
    os._exit(128 + signals.number)
