"""One training: from its checkpoint, or from the start, until the budget is used up."""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from bus.channel import Channel
from bus.record import RecordingChannel
from shared.append_log import AppendLog
from shared.errors import UserError
from shared.settings import Settings
from trainer import ranks
from trainer.backbones.stack import stack
from trainer.descent import Descent
from trainer.evaluator import Diverged, Evaluator
from trainer.loop import Loop
from trainer.progress import step_bar
from trainer.proposals import Proposals
from trainer.runs.checkpoint import load_checkpoint, save_checkpoint
from trainer.runs.directory import HISTORY, RECORD, RunDirectory
from trainer.runs.reporting import Console, History
from trainer.runs.signals import Stopped, StopSignals
from trainer.search.context import TuningContext
from trainer.search.digest import DigestWriter
from trainer.search.evaluation import EvalResult, evaluate, scoring_cost
from trainer.search.events import Event, Listener, Observers, Stepped, WritesFailed
from trainer.search.lanes import open_lane
from trainer.search.pool import Pool, Snapshot, TuningResult
from trainer.search.prompt_init import PromptInit
from trainer.search.restarts import Restarts, clean_words
from trainer.search.schedule import steps_per_epoch
from trainer.search.state import RunState
from trainer.search.trajectory import Trajectory
from trainer.shared_channel import SharedChannel
from trainer.sources import open_channel, publisher
from trainer.watch import live

log = logging.getLogger(__name__)


def tune(
    settings: Settings,
    context: TuningContext,
    directory: RunDirectory,
    signals: StopSignals,
    *,
    listeners: Iterable[Listener] = (),
    bus: Channel | None = None,
    record: Path | None = None,
) -> tuple[TuningResult, RunState]:
    """Train from the directory's checkpoint, or from the start, until the budget is used up.

    Args:
        settings: of this training; `steps` is the budget.
        context: task and model.
        directory: where the run is kept.
        signals: what may stop it.
        listeners: called with every event, after ours.
        bus: an open channel to proposers, which is closed at the end.
        record: the record of an earlier run whose proposals are merged again instead of new ones.

    Raises:
        Stopped: a signal came first; the checkpoint is saved.
        Diverged: the incumbent's loss became NaN or infinite; `best` has what the pool found before.
        UserError: the start has no words, the checkpoint or record cannot be read, or the disk takes no checkpoint.
    """
    train = context.encode(context.task.train, "training rows")
    whole_dev = context.encode(context.task.dev, "development rows")
    dev = whole_dev.share()
    backbone = context.backbone
    prompt_init = _prompt_init(settings, context)
    resumed = directory.has_checkpoint
    if resumed:
        state, offsets = load_checkpoint(directory.path, settings, prompt_init, backbone.device)
    else:
        state, offsets = _begin(settings, context, prompt_init), {HISTORY: 0, RECORD: 0}

    recorded = None
    if ranks.is_main() and (found := open_channel(settings, prompt_init, bus, record, lambda: state.lane_steps)):
        recorded = RecordingChannel(
            found, directory.path / RECORD, lambda: state.record_step, truncate_to=offsets[RECORD]
        )
    channel: Channel | None = recorded
    if ranks.count() > 1 and settings.restarts.policy != "none":
        channel = SharedChannel(recorded)
    history_log = AppendLog(directory.path / HISTORY, keep=offsets[HISTORY])
    history = History(history_log, settings.proposer.budget)
    history.write("resumed" if resumed else "started", state.lane_steps, **_about(settings, context, directory))
    files = RunFiles(directory, state, prompt_init, history_log, recorded, Observers(listeners := list(listeners)))
    with live(directory.path), step_bar(settings.steps, state.lane_steps) as bar:
        publish = [publisher(channel, directory.id)] if channel and settings.restarts.digest == "full" else []
        observers = Observers([state.trajectory, *publish, history, Console(settings.steps, bar), *listeners, files])
        descent = Descent(settings, backbone, train, state, signals)
        evaluator = Evaluator(backbone, dev, state, signals)
        digests = DigestWriter(
            run=directory.id,
            task=context.task.description,
            labels=context.task.labels,
            budget=settings.steps,
            vocabulary=backbone.vocabulary,
            prompt=settings.prompt,
            restarts=settings.restarts,
        )
        proposals = (
            Proposals(
                settings,
                state,
                channel,
                prompt_init,
                digests,
                descent,
                evaluator,
                observers,
                signals,
                scoring_cost(whole_dev, train, settings.optimizer.batch_size, settings.prompt.num_tokens),
                context.beat,
            )
            if channel
            else None
        )
        loop = Loop(
            budget=settings.steps,
            num_evals=settings.num_evals,
            prompt=settings.prompt,
            vocabulary=backbone.vocabulary,
            state=state,
            descent=descent,
            evaluator=evaluator,
            proposals=proposals,
            observers=observers,
            save=lambda: files.save(proposals),
        )
        try:
            with signals.deferred():
                _run(loop, files, history, signals)
        except Diverged as error:
            if state.pool.snapshots:
                error.best = state.pool.result(backbone, dev, settings.average)
            raise
        finally:
            history_log.close()
            if channel is not None:
                channel.close()
    return state.pool.result(backbone, dev, settings.average), state


@torch.no_grad()
def untrained(settings: Settings, context: TuningContext) -> TuningResult:
    """The prompt that a run with these settings starts from."""
    start, origin = _prompt_init(settings, context).first()
    head = context.backbone.new_head(settings.seed)
    dev = context.encode(context.task.dev, "development rows").share()
    result = evaluate(context.backbone.logits(stack([start], [head]), dev.inputs), dev.targets)[0]
    pool = Pool([Snapshot(0, 0, start, head, (origin,), result)])
    return pool.result(context.backbone, dev, average=False)


@dataclass
class RunFiles:
    """Keeps checkpoint, history and record consistent with each other."""

    directory: RunDirectory
    state: RunState
    prompt_init: PromptInit
    history: AppendLog
    record: RecordingChannel | None
    observers: Listener
    """Learns of writes that failed."""
    failures: int = 0
    """Checkpoints that could not be saved."""
    _reported: int = 0
    _failing: bool = False

    def __call__(self, event: Event) -> None:
        """After each step, report the writes that failed since the last report."""
        if not isinstance(event, Stepped):
            return
        record = self.record.errors if self.record else 0
        if (times := self.history.errors + record + self.failures) > self._reported:
            self._reported = times
            self.observers(
                WritesFailed({"history": self.history.errors, "record": record, "checkpoint": self.failures})
            )

    def save(self, proposals: Proposals | None) -> bool:
        """Save a checkpoint with all that has arrived; false, with a warning, if the disk does not take it."""
        if proposals:
            proposals.collect()
        try:
            offsets = {HISTORY: self.history.sync(), RECORD: self.record.offset() if self.record else 0}
            save_checkpoint(self.directory.path, self.state, self.prompt_init, offsets)
        except OSError as error:
            self.failures += 1
            if not self._failing:
                log.warning("%s: the checkpoint cannot be saved (%s); training continues", self.directory.path, error)
            self._failing = True
            return False
        if self._failing:
            log.info("%s: the checkpoint is saved again", self.directory.path)
        self._failing = False
        return True


def _run(loop: Loop, files: RunFiles, history: History, signals: StopSignals) -> None:
    """Run the loop and save all of it at its end, also where a signal is the end."""
    try:
        loop.run()
        _save_finally(files, loop.proposals)
    except Stopped:
        history.write("stopped", files.state.lane_steps, reason=signals.name)
        _save_finally(files, loop.proposals)
        raise
    except UserError as error:
        history.write("stopped", files.state.lane_steps, reason=str(error))
        raise
    # After the save, so that a resume from it writes this line again and not a second time.
    history.write("ended", files.state.lane_steps, seconds=round(files.state.seconds, 3))


def _save_finally(files: RunFiles, proposals: Proposals | None) -> None:
    with ranks.agreed():
        if not files.save(proposals):
            raise UserError(
                f"{files.directory.path}: the last checkpoint cannot be saved; free some space, then continue the run "
                "with --resume from the one before"
            )


def _prompt_init(settings: Settings, context: TuningContext) -> PromptInit:
    return PromptInit(settings.prompt, settings.seed, context.backbone.vocabulary, context.backbone.num_contexts)


def _begin(settings: Settings, context: TuningContext, prompt_init: PromptInit) -> RunState:
    start, origin = prompt_init.first()
    lane = open_lane(0, start, context.backbone.new_head(settings.seed), (origin,), settings)
    per_epoch = steps_per_epoch(settings.optimizer.batch_size, len(context.task.train.examples))
    rounds = [per_epoch * epoch for epoch in sorted(set(settings.restarts.epochs))]
    restarts = Restarts(settings.restarts, settings.steps, rounds=rounds)
    restarts.notice(clean_words(origin.words))
    return RunState([lane], EvalResult(0.0, 0.0), Trajectory(), restarts, Pool())


def _about(settings: Settings, context: TuningContext, directory: RunDirectory) -> dict[str, object]:
    """What a reader of the history needs to know of a run."""
    return {
        "name": directory.name,
        "recipe": settings.recipe,
        "seed": settings.seed,
        "budget": settings.steps,
        "num_evals": settings.num_evals,
        "policy": settings.restarts.policy,
        "source": settings.restarts.source,
        "mode": settings.restarts.mode,
        "task": context.task.description,
        "labels": context.task.labels[:100],
        "settings": hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:16],
        "versions": directory.versions,
    }
