"""One run's directory, read as far as it is written, and read on as it grows."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shared.errors import UserError
from trainer.report.events import About, Ended, Resumed, Stopped
from trainer.report.history import History, View
from trainer.runs.directory import BASELINE, CONFIG, CONTROL, HISTORY, SUMMARY, read_json

TAIL_BYTES = 256
"""Bytes before the place read to that are compared, to see that the file was not cut and written anew."""

TYPES: dict[str, type] = {
    **dict.fromkeys(("recipe", "measure", "result"), str),
    **dict.fromkeys(("steps", "seed"), int),
    **dict.fromkeys(("task", "prompt", "restarts", "metrics", "dev", "test", "others"), dict),
    **dict.fromkeys(("members", "lineage"), list),
}
"""Of the values of config.json and summary.json that a page takes apart."""

State = Literal["finished", "stopped", "running", "stale"]


class Follower:
    """Folds a history file and what is appended to it later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._restart()

    def _restart(self) -> None:
        self._history, self._offset, self._tail = History(), 0, b""

    @property
    def view(self) -> View:
        """The fold of all lines read so far."""
        return self._history.view

    def refresh(self) -> bool:
        """Read complete lines that were appended; true if there were any. A file cut by a resume is read anew."""
        try:
            with self._path.open("rb") as file:
                if not self._is_continued(file.seek(0, 2), file):
                    self._restart()
                file.seek(self._offset)
                lines = file.read().splitlines(keepends=True)
        except OSError:
            return False
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # still being written
        if not lines:
            return False
        self._history.feed(lines)
        self._offset += sum(map(len, lines))
        self._tail = (self._tail + b"".join(lines[-2:]))[-TAIL_BYTES:]
        return True

    def _is_continued(self, size: int, file: Any) -> bool:
        if size < self._offset:
            return False
        file.seek(self._offset - len(self._tail))
        return bool(file.read(len(self._tail)) == self._tail)


@dataclass(frozen=True)
class Files:
    """Settings and summary as the directory holds them."""

    config: dict[str, Any]
    summary: dict[str, Any]
    """Empty until the run has its result."""


class Run:
    """A run's directory: its settings, its history and, once it has one, its result."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self._history = Follower(path / HISTORY)
        self._baseline = Follower(path / BASELINE / HISTORY)
        self.files = Files({}, {})
        self.refresh()

    def refresh(self) -> bool:
        """Read what is new; whether there was anything."""
        files = Files(_json(self.path / CONFIG), _json(self.path / SUMMARY))
        changed = files != self.files
        self.files = files
        return any([self._history.refresh(), self._baseline.refresh(), changed])

    @property
    def view(self) -> View:
        """Of its history."""
        return self._history.view

    @property
    def baseline(self) -> View:
        """Of the history of plain prompt tuning with the same budget; empty without."""
        return self._baseline.view

    @property
    def config(self) -> dict[str, Any]:
        """Its settings."""
        return self.files.config

    @property
    def summary(self) -> dict[str, Any]:
        """Its result; empty until it has one."""
        return self.files.summary

    @property
    def budget(self) -> int:
        """Lane-steps in all; 0 where nothing says it."""
        found = self.about.budget or self.config.get("steps")
        return found if isinstance(found, int) else 0

    @property
    def about(self) -> About:
        """What the last process of the run said of it; nothing known in an old history."""
        resumed: list[About] = [turn for turn in self.view.turns if isinstance(turn, Resumed)]
        return resumed[-1] if resumed else self.view.started or About()

    def state(self, now: float | None = None) -> State:
        """Whether it goes on; stale where it does not say that it ended, but nothing came for a while."""
        turns = self.view.turns
        if self.summary or (turns and isinstance(turns[-1], Ended)):
            return "finished"
        if turns and isinstance(turns[-1], Stopped):
            return "stopped"
        metrics = self.config.get("metrics")
        limit = metrics.get("stale_seconds") if isinstance(metrics, dict) else None
        age = (time.time() if now is None else now) - self._newest()
        return "stale" if age > (limit if isinstance(limit, int | float) else 60.0) else "running"

    def _newest(self) -> float:
        """Unix seconds of the last sign of life."""
        times = [view.time for view in (self.view, self.baseline) if view.time is not None]
        histories = [self.path / folder / HISTORY for folder in ("", BASELINE, CONTROL)]
        for path in (*histories, self.path / CONFIG):
            if path.exists():
                times.append(path.stat().st_mtime)
        return max(times, default=0.0)


def find_runs(path: Path) -> list[Path]:
    """The run at `path`, or the runs in the folder `path`, at any depth, sorted.

    Raises:
        UserError: there is none.
    """
    if (path / CONFIG).is_file() or (path / HISTORY).is_file():
        return [path]
    found = sorted({file.parent for file in path.rglob(HISTORY) if file.parent.name not in (BASELINE, CONTROL)})
    if not found:
        raise UserError(f"{path}: neither a run's directory nor a folder of runs (no {HISTORY} in it)")
    return found


def _json(path: Path) -> dict[str, Any]:
    """A file's values, without those of another type than the trainer writes: a page shows what can be shown."""
    try:
        values = read_json(path)
    except UserError:
        return {}  # absent, or damaged
    return {name: value for name, value in values.items() if isinstance(value, TYPES.get(name, object))}
