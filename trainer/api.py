"""Whole runs from Python: start, resume, replay. `python -m trainer` and `scripts/compare` call the same functions."""

import hashlib
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from bus.channel import Channel
from shared import health
from shared.errors import UserError, first_line
from shared.settings import Settings
from trainer.backbones import load_backbone
from trainer.backbones.backbone import Backbone
from trainer.changes import accept_changes, refuse_differences
from trainer.evaluator import Diverged
from trainer.report.live import LivePage
from trainer.report.page import write_report
from trainer.result.finalize import export, finalize
from trainer.result.run_result import RunResult
from trainer.runs.directory import BASELINE, CONFIG, RECORD, SUMMARY, RunDirectory, find_run, read_settings
from trainer.runs.metrics import TrainerMetrics
from trainer.runs.signals import Stopped, StopSignals
from trainer.search.context import TuningContext
from trainer.search.events import Listener
from trainer.search.schedule import resolve_budget
from trainer.sources import open_bus
from trainer.tasks import load_task
from trainer.tasks.examples import Split, Task
from trainer.tuning import tune, untrained

log = logging.getLogger(__name__)

IfExists = Literal["fail", "resume"]


@dataclass
class Hooks:
    """What a caller adds to a run."""

    listeners: Iterable[Listener] = ()
    """Called with every event of the training, as `trainer.search.events` defines them."""
    load: Callable[[Settings, Task], Backbone] | None = None
    """Loads the frozen model, where it is not the one that the settings name, or is loaded already."""
    signals: StopSignals = field(default_factory=StopSignals)


def run(settings: Settings, *, if_exists: IfExists = "fail", hooks: Hooks | None = None) -> RunResult:
    """Tune a prompt, test it once, keep the result.

    Args:
        settings: of the run.
        if_exists: what to do where `settings.name` is in use: refuse, or resume that run. A finished one is returned.
        hooks: listeners and the like.

    Raises:
        UserError: a setting, the data, the model or the disk is at fault; the text says which and what to do.
        Stopped: SIGTERM or Ctrl-C; `resume` continues the run.
    """
    if if_exists == "resume":
        if settings.name is None:
            raise UserError("--if-exists resume needs the run's name; set --name")
        path = Path(settings.folder) / settings.name
        if (path / SUMMARY).is_file():
            refuse_differences(read_settings(path), settings, path)
            log.info("%s is finished", path)
            return RunResult.load(path)
        if (path / CONFIG).is_file():
            return resume(str(path), settings=settings, hooks=hooks)
    return _carry_out(RunDirectory.create(settings), settings, None, hooks or Hooks())


def resume(name: str, *, settings: Settings | None = None, hooks: Hooks | None = None) -> RunResult:
    """Continue a run that was stopped.

    Args:
        name: its directory, or its name in `runs`.
        settings: to continue with. They may differ in where and how the run computes and talks, and in a larger
            `steps` where the learning rate does not depend on the budget.
        hooks: listeners and the like.

    Raises:
        UserError: no such run, it is finished, another process uses it, or `settings` or the data differ
            from its own.
        Stopped: SIGTERM or Ctrl-C.
    """
    directory = RunDirectory.open(name, settings.folder if settings else "runs")
    try:
        kept = read_settings(directory.path)
        accepted = kept if settings is None else accept_changes(kept, settings, directory)
        if directory.is_finished:
            raise UserError(f"{directory.path} is finished; see its {SUMMARY}")
    except UserError:
        directory.close()
        raise
    return _carry_out(directory, accepted, None, hooks or Hooks())


def replay(name: str, *, settings: Settings | None = None, hooks: Hooks | None = None) -> RunResult:
    """Repeat a run with its recorded proposals, without an LLM, in a new directory.

    The weights are the same bit for bit on the same machine with the same number of threads.

    Args:
        name: its directory, or its name in `runs`.
        settings: to repeat it with. They may differ in where and how the run computes and talks.
        hooks: listeners and the like.

    Raises:
        UserError: no such run, its record is damaged, or `settings` differ from its own.
        Stopped: SIGTERM or Ctrl-C.
    """
    recorded = find_run(name, settings.folder if settings else "runs")
    kept = read_settings(recorded)
    if settings is None:
        settings = kept.model_copy(update={"name": None})
    else:
        refuse_differences(kept, settings, recorded)
    return _carry_out(RunDirectory.create(settings), settings, recorded / RECORD, hooks or Hooks())


def _carry_out(directory: RunDirectory, settings: Settings, record: Path | None, hooks: Hooks) -> RunResult:
    metrics = TrainerMetrics(recipe=settings.recipe, run=directory.name)
    life = health.Health(settings.metrics.stale_seconds)
    page = LivePage(directory.path, settings.metrics.host).respond if settings.metrics.page else None
    server = health.start(settings.metrics, metrics.registry, life, page)
    hooks.signals.farewell = f"stopped; continue with: python -m trainer --resume {directory.path}"
    try:
        with hooks.signals.installed(), _trackers(settings, directory):
            return _tune_and_test(directory, settings, record, hooks, metrics, life)
    except Stopped:
        log.info(hooks.signals.farewell)
        raise
    except UserError:
        if not directory.has_checkpoint:
            directory.discard()  # bad data, a bad model or a port in use: nothing was trained
        raise
    finally:
        life.ending = True
        _report(directory)
        directory.close()
        if server:
            server.close()


def _trackers(settings: Settings, directory: RunDirectory) -> AbstractContextManager[object]:
    if not settings.track:
        return nullcontext()
    from trainer.trackers import Trackers  # here, since accelerate's trackers take seconds to import

    return Trackers(settings, directory)


def _report(directory: RunDirectory) -> None:
    """Write the run's report, which is optional: a fault is a warning."""
    if not directory.path.is_dir():  # discarded
        return
    try:
        write_report(directory.path)
    except Exception as error:
        log.warning("%s: the report cannot be written: %s", directory.path, first_line(error))


def _tune_and_test(
    directory: RunDirectory,
    settings: Settings,
    record: Path | None,
    hooks: Hooks,
    metrics: TrainerMetrics,
    life: health.Health,
) -> RunResult:
    bus: Channel | None = None if record else open_bus(settings, directory.id)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    task = load_task(settings.task, settings.seed, settings.backbone.template)
    directory.check_data({name: fingerprint(getattr(task, name)) for name in ("train", "dev", "test")})
    settings = resolve_budget(settings, len(task.train.examples))
    _announce(directory, settings, task)
    metrics.budget.set(settings.steps)
    context = TuningContext(task, (hooks.load or load_backbone)(settings, task), life.beat)
    listeners: list[Listener] = [metrics, lambda _: life.beat(), *hooks.listeners]

    try:
        result, state = tune(settings, context, directory, hooks.signals, listeners=listeners, bus=bus, record=record)
    except Diverged as error:
        if error.best is None:
            raise
        export(settings, context, directory, error.best)
        loss = error.best.dev.loss
        raise UserError(f"{error}; the best prompt before (dev loss {loss:.3f}) is in {directory.path}/best") from None
    is_plain = settings.restarts.policy == "none"
    own = f"{'plain prompt tuning' if is_plain else 'Tandem'}, {result.kind}"
    results = {"untrained prompt": untrained(settings, context), own: result}
    if settings.baseline and not is_plain:
        log.info("baseline: plain prompt tuning with the same %d lane-steps", settings.steps)
        restarts = settings.restarts.model_copy(update={"policy": "none"})
        plain = settings.model_copy(update={"restarts": restarts})
        with closing(directory.nested(BASELINE, plain)) as nested:
            found, _ = tune(plain, context, nested, hooks.signals, listeners=listeners)
        results[f"plain prompt tuning, {found.kind}"] = found
    return finalize(settings, context, directory, state, results, own)


def _announce(directory: RunDirectory, settings: Settings, task: Task) -> None:
    """Say what the run is about to do."""
    compares = settings.baseline and settings.restarts.policy != "none"
    log.info("run %s: recipe %s, seed %d", directory.path, settings.recipe, settings.seed)
    log.info(
        "%d lane-steps on %d training rows of %d classes%s; at the end one test on %d rows",
        settings.steps,
        len(task.train.examples),
        len(task.labels),
        ", then as many of plain prompt tuning to compare with" if compares else "",
        len(task.test.examples),
    )


def fingerprint(split: Split) -> str:
    """A hash of a split's texts, image files (name and size) and classes."""
    digest = hashlib.sha256()
    for example, target in zip(split.examples, split.targets.tolist(), strict=True):
        image = example.image
        if isinstance(image, Path):
            image = f"{image.name} {image.stat().st_size}".encode()
        digest.update(repr((example.choices, sorted(example.columns.items()), image, example.gold, target)).encode())
    return digest.hexdigest()
