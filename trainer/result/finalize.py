"""The end of a run: test once, export the result, write the summary."""

import logging
from dataclasses import dataclass

import torch

from shared.settings import Settings
from trainer.result.export import export_best
from trainer.result.summary import PromptScores, member_words, summarise
from trainer.runs.directory import SUMMARY, RunDirectory
from trainer.search.evaluation import evaluate
from trainer.search.pool import Result
from trainer.search.state import State
from trainer.tasks.metrics import task_metrics
from trainer.tune import TuningContext

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinalReport:
    """What is told at the end."""

    rows: list[PromptScores]
    """A row for each result."""
    majority: dict[str, float]
    """What always saying the same class scores on test at best."""
    words: list[str]
    """What each member of the run's own result says in the nearest words."""


def finalize(
    settings: Settings, context: TuningContext, folder: RunDirectory, state: State, results: dict[str, Result], own: str
) -> FinalReport:
    """Measure results on test data, once, and keep the run's own, the one called `own`."""
    rows, majority = _on_test(context, results), _majority(context)
    result = results[own]
    words = member_words(result, context.backbone.vocabulary, settings)
    without_adapter = export_best(folder.path, result, context, words, settings)
    if without_adapter:
        log.warning("no PEFT adapter was written: %s", without_adapter)
    folder.write_json(SUMMARY, summarise(settings, folder, state, result, rows, own, majority, words))
    return FinalReport(rows, majority, words)


def _majority(context: TuningContext) -> dict[str, float]:
    task = context.task
    always = torch.eye(len(task.labels))[:, None].expand(-1, len(task.test.targets), -1)
    return max(
        (task_metrics(task.format, logits, task.test) for logits in always),
        key=lambda scores: next(iter(scores.values())),
    )


def _on_test(context: TuningContext, results: dict[str, Result]) -> list[PromptScores]:
    test = context.examples(context.task.test, "test rows")
    rows = []
    for name, found in results.items():
        logits = found.tuned.logits(context.backbone, test.inputs)
        scores = task_metrics(context.task.format, logits, context.task.test)
        rows.append(PromptScores(name, found.dev, evaluate(logits[None], test.targets)[0], scores))
    return rows
