"""One run from its settings to its result: where proposals come from, where it starts, how it ends."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bus.channel import Channel
from bus.in_process import InProcessChannel
from bus.record import RecordingChannel
from bus.replay import ReplayChannel
from shared.health import Health
from shared.settings import Settings
from trainer.backbones.backbone import Backbone
from trainer.loop import Loop
from trainer.runs.checkpoint import load_checkpoint, save_checkpoint
from trainer.runs.directory import RunDirectory, has_checkpoint
from trainer.runs.metrics import TrainerMetrics
from trainer.runs.reporting import Reporter
from trainer.runs.signals import Stopped, StopSignals
from trainer.search.evaluation import EncodedSplit, EvalResult, evaluate
from trainer.search.lanes import open_lane, stack
from trainer.search.pool import Pool, Result, Snapshot
from trainer.search.prompt_init import PromptInit
from trainer.search.restarts import Restarts, clean_words
from trainer.search.schedule import steps_per_epoch
from trainer.search.state import State
from trainer.search.trajectory import Trajectory
from trainer.tasks.examples import Split, Task

RECORD = "record.jsonl"


@dataclass(frozen=True)
class Watch:
    """Who looks at a run while it trains, and who may stop it."""

    metrics: TrainerMetrics
    health: Health
    signals: StopSignals


@dataclass(frozen=True)
class TuningContext:
    """What runs share: the task and the frozen model, which keeps what it has encoded."""

    task: Task
    backbone: Backbone
    beat: Callable[[], None]
    """Called while examples are prepared, so that a long wait does not look like a hang."""

    def examples(self, split: Split, what: str) -> EncodedSplit:
        """A split as the backbone reads it."""
        rows = self.backbone.prepare(split.examples, what, self.beat)
        return EncodedSplit(rows, split.targets.to(self.backbone.device), self.backbone.lengths(rows))


def tune(
    settings: Settings,
    context: TuningContext,
    folder: RunDirectory,
    watch: Watch,
    bus: Channel | None = None,
    replay: Path | None = None,
) -> tuple[Result, State]:
    """Train from the folder's checkpoint, or from the start, until the budget is spent.

    Args:
        settings: of this run; `steps` is the budget.
        context: task and model.
        folder: where the run is kept.
        watch: metrics, health and signals.
        bus: where proposers are, from `open_bus`; closed at the end.
        replay: record of an earlier run whose proposals are merged again instead of new ones.

    Raises:
        Stopped: a signal came first; the checkpoint is saved.
        UserError: a start has no words, or the checkpoint or record cannot be read.
    """
    train = context.examples(context.task.train, "training rows")
    dev = context.examples(context.task.dev, "development rows")
    starts = PromptInit(settings, context.backbone.vocabulary, context.backbone.num_contexts)
    resumed = has_checkpoint(folder.path)
    state = (
        load_checkpoint(folder.path, settings, starts, context.backbone.device)
        if resumed
        else _begin(settings, context, starts)
    )
    end = _source(settings, starts, folder, state, bus, replay)
    reporter = Reporter(folder, settings.steps, state.lane_steps)
    loop = Loop(
        settings=settings,
        state=state,
        backbone=context.backbone,
        labels=context.task.labels,
        train=train,
        dev=dev,
        starts=starts,
        end=end,
        folder=folder,
        reporter=reporter,
        metrics=watch.metrics,
        health=watch.health,
        signals=watch.signals,
    )
    try:
        with watch.signals.deferred():
            try:
                loop.run()
            except Stopped:
                save_checkpoint(folder.path, state, starts)
                raise
            save_checkpoint(folder.path, state, starts)
    finally:
        reporter.close()
        folder.flush()
        if end is not None:
            end.close()
    return state.pool.result(context.backbone, dev, settings.average), state


@torch.no_grad()
def untrained(settings: Settings, context: TuningContext) -> Result:
    """The prompt that a run with these settings starts from."""
    start, origin = PromptInit(settings, context.backbone.vocabulary, context.backbone.num_contexts).first()
    head = context.backbone.new_head(settings.seed)
    dev = context.examples(context.task.dev, "development rows")
    found = evaluate(context.backbone.logits(stack([start], [head]), dev.inputs), dev.targets)[0]
    return Pool([Snapshot(0, 0, start, head, (origin,), found)]).result(context.backbone, dev, average=False)


def _begin(settings: Settings, context: TuningContext, starts: PromptInit) -> State:
    start, origin = starts.first()
    lane = open_lane(0, start, context.backbone.new_head(settings.seed), (origin,), settings)
    per_epoch = steps_per_epoch(settings, len(context.task.train.examples))
    rounds = [per_epoch * epoch for epoch in sorted(set(settings.restarts.epochs))]
    restarts = Restarts(settings.restarts, settings.steps, rounds=rounds)
    restarts.notice(clean_words(origin.words))
    return State([lane], EvalResult(0.0, 0.0), Trajectory(), restarts, Pool())


def _source(
    settings: Settings, starts: PromptInit, folder: RunDirectory, state: State, bus: Channel | None, replay: Path | None
) -> Channel | None:
    """Where proposals come from: nowhere, a record, a control in this process, or the bus."""

    def step() -> int:
        return state.lane_steps

    end = bus
    if replay is not None:
        end = ReplayChannel(replay, step)
    elif settings.restarts.source != "bus":
        end = InProcessChannel(starts.propose, model=settings.restarts.source)
    if end is None or settings.restarts.policy == "none":
        return None
    return RecordingChannel(end, folder.path / RECORD, step)
