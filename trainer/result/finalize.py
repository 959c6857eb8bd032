"""The end of a run: test once, export the result, write the summary."""

import logging

import torch

from shared.settings import Settings
from trainer import ranks
from trainer.result.export import export_best
from trainer.result.run_result import RunResult
from trainer.result.summary import PromptScores, member_words, summarise
from trainer.runs.directory import SUMMARY, RunDirectory
from trainer.search.context import TuningContext
from trainer.search.evaluation import evaluate
from trainer.search.pool import TuningResult
from trainer.search.state import RunState
from trainer.tasks.metrics import TASK_METRICS, task_metrics

log = logging.getLogger(__name__)


def finalize(
    settings: Settings,
    context: TuningContext,
    directory: RunDirectory,
    state: RunState,
    results: dict[str, TuningResult],
    own: str,
) -> RunResult:
    """Measure `results` on test data, once, and keep the run's own, the one named `own`."""
    scores, result = _test(context, results), results[own]
    found: list[RunResult] = []
    with ranks.agreed():
        if ranks.is_main():
            words = export(settings, context, directory, result)
            summary = summarise(settings, directory.name, state, result, scores, own, _majority(context), words)
            directory.write_json(SUMMARY, summary)
            found.append(RunResult.load(directory.path))
    return ranks.broadcast(found)[0]


def export(settings: Settings, context: TuningContext, directory: RunDirectory, result: TuningResult) -> list[str]:
    """Write a result to the directory's `best/`; the nearest words of each of its members."""
    words = member_words(result, context.backbone.vocabulary, settings)
    without_adapter = export_best(directory.path, result, context, words, settings)
    if without_adapter:
        log.warning("no PEFT adapter was written: %s", without_adapter)
    return words


def _majority(context: TuningContext) -> dict[str, float]:
    task = context.task
    if task.format not in TASK_METRICS:  # accuracy, and perhaps a thousand classes
        return {"accuracy": task.test.targets.bincount().max().item() / len(task.test.targets)}
    always = torch.eye(len(task.labels))[:, None].expand(-1, len(task.test.targets), -1)
    return max(
        (task_metrics(task.format, logits, task.test) for logits in always),
        key=lambda scores: next(iter(scores.values())),
    )


def _test(context: TuningContext, results: dict[str, TuningResult]) -> list[PromptScores]:
    test = context.encode(context.task.test, "test rows").share()
    scores = []
    for name, result in results.items():
        logits = result.tuned.logits(context.backbone, test.inputs)
        measured = evaluate(logits[None], test.targets)[0]
        logits = ranks.gather(logits, len(context.task.test.targets))
        metrics = task_metrics(context.task.format, logits, context.task.test)
        scores.append(PromptScores(name, result.dev, measured, metrics))
    return scores
