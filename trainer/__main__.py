"""`python -m trainer RECIPE`: tune a prompt, test it once, keep the result."""

import logging
from pathlib import Path
from typing import NoReturn

from shared import health, logs
from shared.config import CommandLine, recipe_names, recipe_summary
from shared.errors import UserError, run_command
from shared.metrics import TrainerMetrics
from shared.settings import Settings
from trainer.listening import open_bus
from trainer.runs.directory import SUMMARY, RunDirectory, find_run, has_checkpoint, read_settings
from trainer.runs.signals import Stopped, StopSignals
from trainer.threads import wait_briefly

log = logging.getLogger("trainer")


def main() -> int:
    """Read the command line and run what it asks for; the exit status."""
    parser = CommandLine("python -m trainer", "Tune a soft prompt with gradients and proposals in words.")
    parser.add_argument("--list", action="store_true", help="list the packaged recipes and end")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped; its settings are kept")
    parser.add_argument("--replay", metavar="RUN", help="repeat a run with its recorded proposals, without any LLM")
    options = parser.parse_args()
    logs.set_up()
    if options.list:
        for name in recipe_names():
            print(f"{name:24}{recipe_summary(name)}")
        return 0
    if options.resume and options.replay:
        raise UserError("--resume and --replay exclude each other")
    signals = StopSignals()
    signals.install()
    try:
        return _run(parser.resolve(options), options.resume, options.replay, signals)
    except Stopped:
        return 128 + signals.number


def _run(settings: Settings, resume: str | None, replay: str | None, signals: StopSignals) -> int:
    recorded = find_run(replay, settings.folder) if replay else None
    if resume:
        folder, settings = RunDirectory.open(resume, settings.folder)
        if (folder.path / SUMMARY).exists():
            raise UserError(f"{folder.path} is finished; see its {SUMMARY}")
    else:
        if recorded:
            settings = read_settings(recorded).model_copy(update={"name": None})
        folder = RunDirectory.create(settings)
    metrics = TrainerMetrics(recipe=settings.recipe, run=folder.name)
    life = health.Health(settings.metrics.stale_seconds)
    server = health.start(settings.metrics, metrics.registry, life)
    try:
        _tune_and_test(settings, folder, recorded, metrics, life, signals)
    except Stopped:
        log.info("stopped; go on with: python -m trainer --resume %s", folder.path)
        raise
    except UserError:
        if not resume and not has_checkpoint(folder.path):
            folder.discard()  # bad data, a bad model or a port in use: nothing was trained
        raise
    finally:
        life.ending = True
        folder.close()
        if server:
            server.close()
    return 0


def _tune_and_test(
    settings: Settings,
    folder: RunDirectory,
    recorded: Path | None,
    metrics: TrainerMetrics,
    life: health.Health,
    signals: StopSignals,
) -> None:
    bus = None if recorded else open_bus(settings, folder.name)

    wait_briefly()

    import torch  # here, so that --help and bad settings answer at once

    from trainer.backbones import load_backbone
    from trainer.result.finalize import finalize
    from trainer.result.summary import lineage_lines, table
    from trainer.search.schedule import resolve_budget
    from trainer.tasks import load_task
    from trainer.tune import RECORD, TuningContext, Watch, tune, untrained

    if settings.threads:
        torch.set_num_threads(settings.threads)
    task = load_task(settings.task, settings.seed)
    settings = resolve_budget(settings, len(task.train.examples))
    log.info("run %s: recipe %s, seed %d, %d lane-steps", folder.path, settings.recipe, settings.seed, settings.steps)
    context = TuningContext(task, load_backbone(settings, task), life.beat)
    watch = Watch(metrics, life, signals)

    result, state = tune(settings, context, folder, watch, bus, recorded / RECORD if recorded else None)
    is_plain = settings.restarts.policy == "none"
    name = "plain prompt tuning" if is_plain else "Tandem"
    own = f"{name}, {result.kind}"
    results = {"untrained prompt": untrained(settings, context), own: result}
    if settings.baseline and not is_plain:
        log.info("baseline: plain prompt tuning with the same %d lane-steps", settings.steps)
        plain, _ = tune(_without_restarts(settings), context, RunDirectory(folder.path / "baseline"), watch)
        results[f"plain prompt tuning, {plain.kind}"] = plain

    end = finalize(settings, context, folder, state, results, own)
    told = ", ".join(f"{name} {value:.1%}" for name, value in end.majority.items())
    print(f"\n{table(end.rows)}\nalways the same class: test {told} at best\n")
    print("\n".join(lineage_lines(result, end.words)))
    print(f"\nresult: {folder.path}/best   history: {folder.path}/history.jsonl   summary: {folder.path}/{SUMMARY}")


def _without_restarts(settings: Settings) -> Settings:
    plain = settings.restarts.model_copy(update={"policy": "none"})
    return settings.model_copy(update={"restarts": plain})


def command() -> NoReturn:
    """The console script tandem-train."""
    run_command(main)


if __name__ == "__main__":
    command()
