"""Makes runs within a worker."""

from scripts.comparison.arms import changed
from scripts.comparison.runs import PlannedRun
from shared.settings import Settings
from trainer import api
from trainer.backbones import load_backbone
from trainer.backbones.backbone import Backbone
from trainer.hooks import Hooks
from trainer.runs.signals import StopSignals
from trainer.tasks.examples import Task


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
