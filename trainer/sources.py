"""Where proposals come from: LLM proposers on the bus, a control in this process, or the record of an earlier run."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bus.channel import Channel
from bus.early import EarlyChannel
from bus.in_process import InProcessChannel
from bus.messages import Outcomes
from bus.replay import ReplayChannel
from bus.server import BusServer
from shared.settings import Settings
from trainer.search.events import CandidatesPassedOver, Event, TrialJudged
from trainer.search.restarts import max_answers

if TYPE_CHECKING:  # loads torch
    from trainer.search.prompt_init import PromptInit
    from trainer.tasks.examples import Task

log = logging.getLogger(__name__)


def open_bus(settings: Settings, run: str) -> BusServer | None:
    """Listen for proposers, if the settings ask for any; `run` identifies the run to them.

    Call it before torch and the model load, so that proposers are connected when the first digest is leased.

    Raises:
        UserError: the address cannot be bound.
    """
    if settings.restarts.policy == "none" or settings.restarts.source != "bus":
        return None
    server = BusServer(settings.bus, run)
    log.info("listening for proposers on %s", settings.bus.bind)
    return server


def asked_early(bus: Channel, run: str, task: "Task", settings: Settings) -> Channel:
    """`bus`, asked for prompts at once where the first digest needs no model, so that they are there when it is loaded.

    Such is the digest of a run that starts from noise and asks before its first step.
    """
    if settings.prompt.init != "random" or settings.restarts.epochs:
        return bus
    from trainer.search.digest import opening_digest  # here, since it loads torch

    digest = opening_digest(run, task.description, task.labels, settings.steps, settings.prompt, settings.restarts)
    return EarlyChannel(bus, digest, max_answers(settings.restarts))


def open_channel(
    settings: Settings, prompt_init: "PromptInit", bus: Channel | None, record: Path | None, step: Callable[[], int]
) -> Channel | None:
    """The channel that the settings ask for; None for plain prompt tuning.

    Args:
        settings: of the run.
        prompt_init: draws the control's words.
        bus: an open channel to proposers.
        record: the record of the run that is replayed, if one is.
        step: gives the lane-steps so far.

    Raises:
        UserError: the record cannot be read.
    """
    source = settings.restarts.source
    if settings.restarts.policy == "none":
        return None
    if record is not None:
        return ReplayChannel(record, step)
    if source == "bus":
        return bus
    from trainer.search.controls import control  # here, since proposers are listened for before torch is loaded

    return InProcessChannel(control(source, prompt_init), model=source)


def publisher(channel: Channel, run: str) -> Callable[[Event], None]:
    """A listener that sends proposers what became of candidates."""

    def publish(event: Event) -> None:
        match event:
            case TrialJudged():
                outcomes = [event.outcome]
            case CandidatesPassedOver():
                outcomes = event.outcomes
            case _:
                return
        channel.tell(Outcomes(run=run, lease=event.lease, step=event.lane_steps, outcomes=outcomes))

    return publish
