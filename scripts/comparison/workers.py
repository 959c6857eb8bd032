"""Workers: processes that make runs, several at a time."""

import logging
import multiprocessing
import os
import queue
import time
from dataclasses import dataclass
from typing import Any

from scripts.comparison.runs import PlannedRun
from shared.errors import UserError
from trainer.runs.signals import Stopped, StopSignals

LOOK_SECONDS = 0.5
"""How often the parent looks whether a worker died."""


@dataclass(frozen=True)
class Done:
    """What a worker says of a run."""

    run: PlannedRun
    seconds: float
    score: float | None
    """On test, from 0 to 1; None where it failed."""
    error: str = ""


class Progress:
    """Says what is done and how long the rest may take."""

    def __init__(self, total: int, jobs: int) -> None:
        self._left, self._total, self._jobs = total, total, jobs
        self._taken: list[float] = []

    def __call__(self, done: Done) -> None:
        """Print a line."""
        self._left -= 1
        self._taken.append(done.seconds)
        rest = sum(self._taken) / len(self._taken) * self._left / self._jobs
        run = done.run
        print(
            f"{run.condition} seed {run.seed} {run.arm.name}: test {done.score:.2%}, {done.seconds:.0f} s"
            f"   [{self._total - self._left} of {self._total}, about {duration(rest)} left]",
            flush=True,
        )


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def make_runs(runs: list[PlannedRun], endpoints: list[str], progress: Progress) -> None:
    """Make `runs`, one worker for each endpoint; a run that was begun is finished.

    Raises:
        UserError: a run failed, or a worker died.
        Stopped: a signal came; the runs under way are saved.
    """
    context = multiprocessing.get_context("spawn")
    tasks, results = context.Queue(), context.Queue()
    tasks.cancel_join_thread()  # else a stop waits for ever until the workers, which are gone, have read all runs
    for run in runs:
        tasks.put(run)
    workers = [context.Process(target=work, args=(endpoint, tasks, results)) for endpoint in endpoints[: len(runs)]]
    for worker in workers:
        tasks.put(None)
        worker.start()
    try:
        for _ in runs:
            done = _next(results, workers)
            if done.error:
                raise UserError(done.error)
            progress(done)
    except BaseException:
        for worker in workers:
            worker.terminate()  # saves the run under way
        raise
    finally:
        for worker in workers:
            worker.join()


def _next(results: Any, workers: list[Any]) -> Done:
    while True:
        try:
            done: Done = results.get(timeout=LOOK_SECONDS)
            return done
        except queue.Empty:
            codes = [worker.exitcode for worker in workers if worker.exitcode]
            if codes:
                raise UserError(f"a worker ended with status {codes[0]}; start the command again") from None


def work(endpoint: str, tasks: Any, results: Any) -> None:
    """Make the runs that `tasks` holds until it gives None."""
    from scripts.comparison.runner import Runner  # loads torch and models' code, which the parent has no use for

    os.setsid()  # Ctrl-C goes to the parent alone, which passes it on once
    logging.getLogger("trainer").setLevel(logging.WARNING)
    signals = StopSignals()
    runner = Runner(signals)
    try:
        with signals.installed():
            while (run := tasks.get()) is not None:
                began = time.monotonic()
                try:
                    score = runner.make(run, endpoint)
                    results.put(Done(run, time.monotonic() - began, score))
                except UserError as error:
                    results.put(Done(run, time.monotonic() - began, None, str(error)))
    except Stopped:
        results.cancel_join_thread()
