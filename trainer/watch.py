"""A run as it goes on, on a terminal: below the trainer's lines, or elsewhere with `python -m trainer.watch RUN`."""

import argparse
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shared.errors import UserError, first_line, run_command
from trainer.report.facts import adopted, adopted_of_tried, duration, number, progress, signed
from trainer.report.run import Run
from trainer.report.text import visible
from trainer.runs.directory import find_run

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.5
RECENT_STEPS = 200
"""Gradient steps that the pace is taken from."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `python -m trainer.watch --help` explains the options")


def main() -> int:
    """Watch a run until it is finished or stopped; the exit status."""
    parser = _Parser(prog="python -m trainer.watch", description="Watch a run that goes on.")
    parser.add_argument("run", nargs="?", default="latest", help="a run's name or directory; default: latest")
    parser.add_argument("--folder", default="runs", help="where named runs are kept; default: runs")
    options = parser.parse_args()
    run = Run(find_run(options.run, options.folder))
    console = Console()
    if console.is_terminal:
        _watch(run, console)
    else:
        _print_lines(run)
    return 0


def view(run: Run) -> Panel:
    """The run now: bar, losses, lanes, last adoption, what the LLM does, time left."""
    done, budget = run.view.lane_steps, run.budget
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim")
    rows.add_column(overflow="fold")
    rows.add_row("lane-steps", ProgressBar(total=max(1, budget), completed=min(done, budget)))
    for name, value in _facts(run):
        rows.add_row(name, Text(value))
    return Panel(rows, title=Text(visible(run.name)), subtitle=Text(progress(run)))


@contextmanager
def live(path: Path) -> Iterator[None]:
    """Show the run at `path` below the lines of the log; nothing where standard output is not a terminal."""
    if not sys.stdout.isatty():
        yield
        return
    run, ending = Run(path), threading.Event()
    with Live(view(run), auto_refresh=False, transient=True) as shown:
        shown.console.show_cursor()  # a process that is killed leaves the terminal usable
        thread = threading.Thread(target=_follow, args=(run, shown, ending), name="view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()


def _follow(run: Run, shown: Live, ending: threading.Event) -> None:
    """Redraw in a thread of its own: training does not wait for a terminal."""
    try:
        while not ending.wait(REFRESH_SECONDS):
            if run.refresh():
                shown.update(view(run), refresh=True)
    except Exception as error:
        log.warning("the view of the run ends (%s); training continues", first_line(error))


def line(run: Run) -> str:
    """The same in one line."""
    return "  ".join([progress(run), *(f"{name} {value}" for name, value in _facts(run))])


def seconds_left(run: Run) -> float | None:
    """Time that the rest of the budget takes at the pace of the last steps; None where that is unknown."""
    steps = run.view.steps
    recent = len(steps.step) - min(RECENT_STEPS, len(steps.step) - 1)
    passed = sum(steps.seconds[recent:])
    made = steps.step[-1] - steps.step[recent - 1] if len(steps.step) > 1 else 0
    return (run.budget - run.view.lane_steps) * passed / made if made and passed else None


def _facts(run: Run) -> list[tuple[str, str]]:
    view, found = run.view, []
    last = next(reversed(view.evaluations.values()), None)
    if last is not None:
        losses = [event.dev_loss for event in view.evaluations.values() if event.dev_loss is not None]
        best = min(filter(isfinite, losses), default=None)
        found.append(("dev loss", f"{number(last.dev_loss)} (lowest {number(best)})"))
        found.append(("train loss", number(last.train_loss)))
        found.append(("near", visible(last.words, 120)))
    lanes = [lane for lane, (steps, _) in view.steps.lanes.items() if steps[-1] == view.steps.step[-1]]
    found.append(("lanes", f"{len(lanes)} training, {'{} of {}'.format(*adopted_of_tried(run))} adopted"))
    if latest := next(reversed(adopted(view)), None):
        words = visible(latest.words, 120)
        found.append(("last adopted", f"{words} at {latest.step}, gain {signed(latest.gain)}"))
    found.append(("LLM", _asking(run)))
    if (left := seconds_left(run)) is not None and run.state() == "running":
        found.append(("time left", duration(left)))
    return found


def _asking(run: Run) -> str:
    view = run.view
    answered = {event.asked for event in view.proposals.values()}
    open_ = [digest.step for digest in view.digests.values() if digest.step not in answered]
    last = next(reversed(view.proposals.values()), None)
    text = f"{len(view.proposals)} answers" + (f", the last from {visible(last.model, 60)}" if last else "")
    if open_ and run.state() == "running":
        text += f"; asked at step {open_[-1]}"
    return text


def _watch(run: Run, console: Console) -> None:
    with Live(view(run), console=console, auto_refresh=False) as live:
        while run.state() in ("running", "stale"):
            time.sleep(REFRESH_SECONDS)
            run.refresh()
            live.update(view(run), refresh=True)


def _print_lines(run: Run) -> None:
    """A line for each evaluation, and one at the end."""
    evaluations = -1
    while True:
        state = run.state()
        if len(run.view.evaluations) != evaluations or state not in ("running", "stale"):
            evaluations = len(run.view.evaluations)
            print(line(run), flush=True)
        if state not in ("running", "stale"):
            return
        time.sleep(REFRESH_SECONDS)
        run.refresh()


if __name__ == "__main__":
    run_command(main)
