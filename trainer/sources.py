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
from trainer.runs.directory import RunDirectory
from trainer.search.events import CandidatesPassedOver, Event, TrialJudged
from trainer.search.opening import opening_digest
from trainer.search.restarts import max_answers

if TYPE_CHECKING:  # loads torch
    from trainer.search.prompt_init import PromptInit

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


def asked_early(bus: Channel | None, directory: RunDirectory, settings: Settings, labels: list[str]) -> Channel | None:
    """`bus`, asked for prompts at once where the first digest needs no model: of a run that begins, from noise.

    Args:
        bus: an open channel to proposers, if there is one; one that was asked already stays as it is.
        directory: of the run.
        settings: of the run, with its budget in `steps`.
        labels: the classes; empty if they are not known yet.
    """
    is_noise = settings.prompt.init == "random" and not settings.restarts.epochs and not directory.has_checkpoint
    if bus is None or isinstance(bus, EarlyChannel) or not labels or not is_noise:
        return bus
    digest = opening_digest(
        directory.id, settings.task.description, labels, settings.steps, settings.prompt, settings.restarts
    )
    return EarlyChannel(bus, digest, max_answers(settings.restarts))


def known_labels(settings: Settings) -> list[str]:
    """The classes as far as settings tell them; empty if that, or the budget, needs the data."""
    task = settings.task
    is_told = task.format in ("text", "image") and settings.epochs is None
    return list(dict.fromkeys(task.labels.values())) if is_told else []


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
