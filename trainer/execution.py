"""One whole run: data and model, training, what it is compared with, one test."""

import hashlib
import logging
from contextlib import closing
from pathlib import Path

import torch

from bus.channel import Channel
from shared.errors import UserError
from shared.health import Health
from shared.settings import Settings
from trainer import ranks
from trainer.backbones import load_backbone
from trainer.evaluator import Diverged
from trainer.hooks import Hooks
from trainer.result.finalize import export, finalize
from trainer.result.run_result import RunResult
from trainer.runs.directory import BASELINE, CONTROL, RunDirectory
from trainer.runs.metrics import TrainerMetrics
from trainer.search.context import TuningContext
from trainer.search.events import Listener
from trainer.search.schedule import resolve_budget
from trainer.sources import asked_early
from trainer.tasks import load_task
from trainer.tasks.examples import Split, Task
from trainer.tuning import tune, untrained

log = logging.getLogger(__name__)


def tune_and_test(
    directory: RunDirectory,
    settings: Settings,
    bus: Channel | None,
    record: Path | None,
    hooks: Hooks,
    metrics: TrainerMetrics,
    life: Health,
) -> RunResult:
    """Carry out a run.

    Args:
        directory: where the run is kept.
        settings: of the run.
        bus: an open channel to proposers.
        record: the record of the run that is replayed, if one is.
        hooks: what the caller adds.
        metrics: of the trainer.
        life: whose beat says that the run is alive.

    Raises:
        UserError: data, model or disk are at fault, or the incumbent diverged.
        Stopped: a signal came first.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with ranks.agreed():
        task = load_task(settings.task, settings.seed, settings.backbone.template)
        data = {name: fingerprint(getattr(task, name)) for name in ("train", "dev", "test")}
        directory.check_data(data)
        _check_ranks(task, ranks.broadcast(data) == data)
    life.beat()
    settings = resolve_budget(settings, len(task.train.examples))
    _announce(directory, settings, task)
    metrics.budget.set(settings.steps)
    bus = asked_early(bus, directory, settings, task.labels)
    with ranks.agreed():
        context = TuningContext(task, (hooks.load or load_backbone)(settings, task), life.beat)
        directory.check_model(context.backbone.vocabulary.fingerprint)
    life.beat()
    listeners: list[Listener] = [metrics, lambda _: life.beat(), *hooks.listeners]

    try:
        result, state = tune(settings, context, directory, hooks.signals, listeners=listeners, bus=bus, record=record)
    except Diverged as error:
        if error.best is None:
            raise
        if ranks.is_main():
            export(settings, context, directory, error.best)
        loss = error.best.dev.loss
        raise UserError(f"{error}; the best prompt before (dev loss {loss:.3f}) is in {directory.path}/best") from None
    is_plain = settings.restarts.policy == "none"
    own = f"{'plain prompt tuning' if is_plain else 'Tandem'}, {result.kind}"
    results = {"untrained prompt": untrained(settings, context), own: result}
    for label, folder, restarts in _comparisons(settings):
        log.info("to compare with: %s, the same %d lane-steps", label, settings.steps)
        other = settings.model_copy(update={"restarts": settings.restarts.model_copy(update=restarts)})
        with closing(directory.nested(folder, other)) as nested:
            found, _ = tune(other, context, nested, hooks.signals, listeners=listeners)
        results[f"{label}, {found.kind}"] = found
    return finalize(settings, context, directory, state, results, own)


def _check_ranks(task: Task, is_same_data: bool) -> None:
    """Refuse a rank that reads other data than rank 0, and more ranks than rows to evaluate.

    Raises:
        UserError: one of these.
    """
    if not is_same_data:
        raise UserError("the data is not that of rank 0; give all hosts the same files")
    rows = min(len(task.dev.examples), len(task.test.examples))
    if ranks.count() > rows:
        raise UserError(f"{ranks.count()} ranks share {rows} development or test rows; start at most {rows}")


def _comparisons(settings: Settings) -> list[tuple[str, str, dict[str, str]]]:
    """What a run compares itself with: a name, a directory and changes to `restarts` each."""
    if not settings.baseline or settings.restarts.policy == "none":
        return []
    plain = ("plain prompt tuning", BASELINE, {"policy": "none"})
    if settings.restarts.source != "bus":
        return [plain]
    return [plain, ("random words", CONTROL, {"source": "vocabulary"})]


def _announce(directory: RunDirectory, settings: Settings, task: Task) -> None:
    """Say what the run is about to do."""
    compared = " and ".join(label for label, *_ in _comparisons(settings))
    log.info("run %s: recipe %s, seed %d", directory.path, settings.recipe, settings.seed)
    log.info(
        "%d lane-steps on %d training rows of %d classes%s; at the end one test on %d rows",
        settings.steps,
        len(task.train.examples),
        len(task.labels),
        f", then as many of {compared} to compare with" if compared else "",
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
