"""Runs: one arm of a condition with one seed, each in a folder of its own."""

from dataclasses import dataclass
from pathlib import Path

from scripts.comparison.arms import Arm, changed
from shared.settings import Settings
from trainer import api
from trainer.backbones import load_backbone
from trainer.backbones.backbone import Backbone
from trainer.hooks import Hooks
from trainer.runs.directory import SUMMARY
from trainer.runs.signals import StopSignals
from trainer.tasks.examples import Task


@dataclass(frozen=True)
class PlannedRun:
    """A run to make, or made."""

    condition: str
    arm: Arm
    seed: int
    settings: Settings

    @property
    def path(self) -> Path:
        """Its directory."""
        return Path(self.settings.folder) / str(self.settings.name)

    @property
    def is_finished(self) -> bool:
        """Whether its result is there."""
        return (self.path / SUMMARY).is_file()


def plan(condition: str, base: Settings, arms: list[Arm], seeds: list[int], out: Path) -> list[PlannedRun]:
    """The runs of a condition with the settings `base`, seed by seed, so that arms can be paired early."""
    runs = []
    for seed in seeds:
        for arm in arms:
            own = {"folder": str(out / condition), "name": f"{arm.name}-s{seed}", "seed": seed}
            one_core = {"threads": base.threads or 1}  # the others are for the LLM and for runs that go on meanwhile
            runs.append(PlannedRun(condition, arm, seed, changed(arm.apply(base), {**own, **one_core})))
    return runs


class Runner:
    """Makes runs one after another; the frozen model and what it encoded serve all that can share them."""

    def __init__(self, signals: StopSignals) -> None:
        self._signals = signals
        self._key: object = None
        self._loaded: Backbone | None = None

    def make(self, run: PlannedRun, endpoint: str) -> float:
        """Make a run, or finish it, with proposers at `endpoint`; the test score, from 0 to 1.

        Raises:
            UserError: a setting is wrong, or differs from that of the run in its folder.
            Stopped: a signal came.
        """
        settings = changed(run.settings, {"bus.bind": endpoint})
        hooks = Hooks(load=self._load, signals=self._signals)
        summary = api.run(settings, if_exists="resume", hooks=hooks).summary
        return float(summary["test"][summary["measure"]])

    def _load(self, settings: Settings, task: Task) -> Backbone:
        key = (settings.device, settings.backbone, settings.prompt, task.labels)
        if self._loaded is None or key != self._key:
            self._key, self._loaded = key, load_backbone(settings, task)
        return self._loaded
