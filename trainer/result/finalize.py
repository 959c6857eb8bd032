"""The end of a run: test once, export the result, write the summary."""

import logging
from dataclasses import dataclass

import torch

from shared.settings import Settings
from trainer.result.export import export_best
from trainer.search.evaluation import fitness
from trainer.runs.directory import SUMMARY, RunFolder
from trainer.tasks.metrics import measure
from trainer.search.pool import Result
from trainer.search.state import State
from trainer.result.summary import Row, member_words, summarise
from trainer.tune import Ground

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conclusion:
    """What is told at the end."""

    rows: list[Row]
    """A row for each result."""
    majority: dict[str, float]
    """What always saying the same class scores on test at best."""
    words: list[str]
    """What each member of the run's own result says in the nearest words."""


def conclude(
    settings: Settings, ground: Ground, folder: RunFolder, state: State, results: dict[str, Result], own: str
) -> Conclusion:
    """Measure results on test data, once, and keep the run's own, the one called `own`."""
    rows, majority = _on_test(ground, results), _majority(ground)
    result = results[own]
    words = member_words(result, ground.backbone.vocabulary, settings)
    without_adapter = export_best(folder.path, result, ground, words, settings)
    if without_adapter:
        log.warning("no PEFT adapter was written: %s", without_adapter)
    folder.write_json(SUMMARY, summarise(settings, folder, state, result, rows, own, majority, words))
    return Conclusion(rows, majority, words)


def _majority(ground: Ground) -> dict[str, float]:
    task = ground.task
    always = torch.eye(len(task.labels))[:, None].expand(-1, len(task.test.targets), -1)
    return max(
        (measure(task.form, logits, task.test) for logits in always), key=lambda scores: next(iter(scores.values()))
    )


def _on_test(ground: Ground, results: dict[str, Result]) -> list[Row]:
    test = ground.examples(ground.task.test, "test rows")
    rows = []
    for name, found in results.items():
        logits = found.tuned.logits(ground.backbone, test.inputs)
        scores = measure(ground.task.form, logits, ground.task.test)
        rows.append(Row(name, found.dev, fitness(logits[None], test.targets)[0], scores))
    return rows
