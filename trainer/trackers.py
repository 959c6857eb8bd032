"""Experiment trackers (TensorBoard, wandb, MLflow, trackio, ...) that follow a run's history.

They run in a thread of their own and read what the trainer wrote: training never waits for one.
"""

import logging
import os
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from shared.errors import UserError, first_line
from shared.settings import Settings
from trainer.report.facts import adopted, flat
from trainer.report.run import Run
from trainer.runs.directory import RunDirectory

log = logging.getLogger(__name__)

PROJECT = "tandem"
"""Where trackers have projects or experiments, every run is one of this."""
PRIVATE = {"folder", "bus", "metrics"}
"""Settings that say where a run is and how it talks; no service needs them."""
FEED_SECONDS = 1.0
"""The history is read this often; the trainer flushes it as often."""

Row = dict[str, float | str]


class Trackers(AbstractContextManager["Trackers"]):
    """Feeds trackers from the start of a run, or of its continuation, to its end.

    Args:
        settings: `track` names the trackers.
        directory: of the run.

    Raises:
        UserError: a tracker is unknown or cannot start.
    """

    def __init__(self, settings: Settings, directory: RunDirectory) -> None:
        self._run = Run(directory.path)
        self._began = time.time()
        """Events before it were fed by the process before."""
        self._fed = (self._began, 0)
        """Time of the last evaluation that was fed, and lane-steps of the last row."""
        self._failing: set[str] = set()
        self._trackers: dict[str, GeneralTracker] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="trackers", daemon=True)
        PartialState()  # accelerate's trackers need it to log
        for name in dict.fromkeys(settings.track):
            self._trackers[name] = _start(name, directory, settings, self._run.view.lane_steps)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Feed the rest, then finish."""
        self._ending.set()
        self._thread.join()
        for name, tracker in self._trackers.items():
            self._attempt(name, tracker.finish)

    def _follow(self) -> None:
        while not self._ending.wait(FEED_SECONDS):
            self._feed()
        self._feed()

    def _feed(self) -> None:
        """Log what is new, lane-steps ascending, as wandb requires."""
        self._run.refresh()
        since, step = self._fed
        rows: dict[int, Row] = {}
        for event in self._run.view.evaluations.values():
            if event.time is not None and event.time > since:
                since = event.time
                numbers = {"dev_loss": event.dev_loss, "dev_accuracy": event.dev_accuracy}
                rows[event.step] = {**_known(numbers), "words": event.words}
        now = self._run.view.lane_steps
        if now > step and (self._run.view.time or 0) > self._began:
            rows.setdefault(now, {}).update(_standing(self._run))
        if self._ending.is_set() and isinstance(test := self._run.summary.get("test"), dict):
            rows.setdefault(now, {}).update(_known({f"test_{key}": value for key, value in test.items()}))
        self._fed = since, max([step, *rows])
        for at in sorted(rows):
            for name, tracker in self._trackers.items():
                self._attempt(name, tracker.log, rows[at], step=at)

    def _attempt(self, name: str, act: Any, *values: Any, **options: Any) -> None:
        """Call a tracker; its first failure in a row is a warning."""
        try:
            act(*values, **options)
            self._failing.discard(name)
        except Exception as error:
            if name not in self._failing:
                log.warning("track: %s failed (%s); training continues", name, first_line(error))
            self._failing.add(name)


def _start(name: str, directory: RunDirectory, settings: Settings, step: int) -> GeneralTracker:
    kind = LOGGER_TYPE_TO_CLASS.get(name)
    if kind is None:
        raise UserError(f"track: {name!r} is not one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    try:
        tracker = _make(name, kind, directory, step)
        tracker.start()
        if not step:
            kept = settings.model_dump(mode="json", exclude=PRIVATE)
            tracker.store_init_configuration(_simple(dict(flat(kept))))
    except ImportError as error:
        raise UserError(f"track: {name} is not installed ({first_line(error)}); pip install {name}") from None
    except Exception as error:
        raise UserError(f"track: {name} cannot start: {first_line(error)}") from None
    return tracker


def _make(name: str, kind: Any, directory: RunDirectory, step: int) -> GeneralTracker:
    """A tracker of the run; one that was used before is continued where the tracker can."""
    path: Path = directory.path
    match name:
        case "tensorboard":
            return kind("tensorboard", path, purge_step=step + 1)
        case "wandb":
            os.environ.setdefault("WANDB_CONSOLE", "off")  # the trainer's lines are its own
            return kind(PROJECT, name=directory.name, id=directory.id[-16:], resume="allow", dir=str(path))
        case "trackio":
            return kind(PROJECT, name=directory.name, resume="allow")
        case "mlflow":
            return kind(PROJECT, run_name=directory.name)
    return kind(PROJECT, path) if kind.requires_logging_directory else kind(PROJECT)


def _standing(run: Run) -> Row:
    """How the run stands at its last step."""
    view, losses = run.view, run.view.steps.lanes
    lane = next((event.lane for event in reversed(adopted(view)) if event.lane is not None), 0)
    answers = view.proposals.values()
    return _known(
        {
            "train_loss": losses[lane][1][-1] if lane in losses else None,
            "adopted": len(adopted(view)),
            "candidates": len(view.outcomes),
            "llm_answers": len(answers),
            "llm_seconds": sum(event.seconds or 0 for event in answers),
            "llm_tokens": sum((event.input_tokens or 0) + (event.output_tokens or 0) for event in answers),
        }
    )


def _known(values: dict[str, Any]) -> Row:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _simple(values: dict[str, Any]) -> dict[str, str | float]:
    """Settings as trackers take them: numbers and text."""
    return {name: value if isinstance(value, int | float | str) else str(value) for name, value in values.items()}
