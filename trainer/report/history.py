"""A run's history as a plain view: the one fold that the report, the live page and the terminal view read."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError

from trainer.report.events import (
    AnyEvent,
    CandidatesScored,
    DigestLeased,
    Ended,
    Evaluation,
    Event,
    GradientStep,
    LeaseEnded,
    OutcomeReached,
    ProposalArrived,
    RequestSkipped,
    Resumed,
    Scored,
    Started,
    Stopped,
    TrialOpened,
    event_type,
)

START_OF_EVENT = b'{"kind"'
"""No string in JSON can hold this unescaped, so a torn line that another was glued to can be cut here."""

Key = TypeVar("Key")
Kept = TypeVar("Kept", bound=Event)


@dataclass
class Steps:
    """The gradient steps as columns, since a run has millions of them."""

    step: "array[int]" = field(default_factory=lambda: array("q"))
    """Lane-steps after it, increasing."""
    seconds: "array[float]" = field(default_factory=lambda: array("d"))
    """Since the step before it, or since the process began or resumed; 0 where that is unknown."""
    bus_seconds: "array[float]" = field(default_factory=lambda: array("d"))
    lanes: "dict[int, tuple[array[int], array[float]]]" = field(default_factory=dict)
    """Lane-steps and training loss of each step, by lane; NaN where the loss is missing."""

    def add(self, event: GradientStep, seconds: float) -> None:
        """Append one; a step that is there already is replaced."""
        self.cut(event.step - 1)
        self.step.append(event.step)
        self.seconds.append(seconds)
        self.bus_seconds.append(event.bus_seconds or 0.0)
        losses = [*event.train_losses, *[None] * len(event.lanes)]
        for lane, loss in zip(event.lanes, losses, strict=False):
            steps, values = self.lanes.setdefault(lane, (array("q"), array("d")))
            steps.append(event.step)
            values.append(float("nan") if loss is None else loss)

    def cut(self, step: int) -> None:
        """Forget what is later than `step`."""
        if not self.step or self.step[-1] <= step:
            return
        keep = bisect_right(self.step, step)
        del self.step[keep:], self.seconds[keep:], self.bus_seconds[keep:]
        for lane, (steps, values) in list(self.lanes.items()):
            keep = bisect_right(steps, step)
            del steps[keep:], values[keep:]
            if not steps:
                del self.lanes[lane]


@dataclass
class View:
    """What the history says so far. Dictionaries hold events in the order in which they came."""

    started: Started | None = None
    turns: list[Stopped | Resumed | Ended] = field(default_factory=list)
    """Where processes ended and began, oldest first."""
    lane_steps: int = 0
    time: float | None = None
    """Of the newest event that has one, in Unix seconds."""
    steps: Steps = field(default_factory=Steps)
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    """By lane-steps."""
    digests: dict[int, DigestLeased] = field(default_factory=dict)
    """By sequence number."""
    proposals: dict[str, ProposalArrived] = field(default_factory=dict)
    """By lease."""
    lost: dict[str, LeaseEnded] = field(default_factory=dict)
    """Leases that ended without an answer."""
    skipped: dict[int, RequestSkipped] = field(default_factory=dict)
    """Rounds of sync mode without an answer, by lane-steps."""
    scorings: dict[tuple[int, tuple[str, ...]], CandidatesScored] = field(default_factory=dict)
    """By lane-steps and words."""
    trials: dict[int, TrialOpened] = field(default_factory=dict)
    """By lane."""
    outcomes: dict[tuple[int, str, str, str], OutcomeReached] = field(default_factory=dict)
    """By lane-steps, lease, words and outcome."""
    unreadable: int = 0
    """Lines that are not an event."""

    @property
    def scored(self) -> list[Scored]:
        """All candidates that were scored, oldest first."""
        return [candidate for event in self.scorings.values() for candidate in event.scored]


class History:
    """Folds lines into a view as they come. Lines may be torn or repeated, and a resumed run may go back."""

    def __init__(self) -> None:
        self.view = View()
        self._since: float | None = None
        """Unix seconds from which the next step's time counts."""

    def feed(self, lines: Iterable[str | bytes]) -> View:
        """Fold more lines; the view, which is changed in place."""
        for line in lines:
            raw = line.encode("utf-8", "replace") if isinstance(line, str) else line
            if raw.strip():
                self._read(raw)
        return self.view

    def _read(self, line: bytes) -> None:
        event = _parse(line)
        if event is None:
            self.view.unreadable += 1
            event = _parse(line[max(0, line.rfind(START_OF_EVENT)) :])
        if event is not None:
            self._apply(event)

    def _apply(self, event: AnyEvent) -> None:
        if isinstance(event, Started):
            self.view = View(started=event, unreadable=self.view.unreadable)
        elif event.step < self.view.lane_steps:
            self._go_back(event.step)
        view = self.view
        view.lane_steps = max(view.lane_steps, event.step)
        view.time = event.time if event.time is not None else view.time
        match event:
            case GradientStep():
                view.steps.add(event, _between(self._since, event.time))
            case Evaluation():
                view.evaluations[event.step] = event
            case DigestLeased():
                view.digests[event.sequence] = event
            case ProposalArrived():
                view.proposals[event.lease] = event
            case LeaseEnded():
                view.lost[event.lease] = event
            case RequestSkipped():
                view.skipped[event.step] = event
            case CandidatesScored():
                view.scorings[event.step, tuple(one.words for one in event.scored)] = event
            case TrialOpened():
                view.trials[event.lane] = event
            case OutcomeReached():
                view.outcomes[event.step, event.lease or "", event.words, event.outcome] = event
            case Stopped() | Resumed() | Ended():
                if event not in view.turns:
                    view.turns.append(event)
        if isinstance(event, Started | Resumed | GradientStep):
            self._since = event.time

    def _go_back(self, step: int) -> None:
        """Forget what came after `step`: the run took it up from there again."""
        view, self._since = self.view, None
        view.lane_steps = step
        view.steps.cut(step)
        view.turns = [event for event in view.turns if event.step <= step]
        view.evaluations = _until(view.evaluations, step)
        view.digests = _until(view.digests, step)
        view.proposals = _until(view.proposals, step)
        view.lost = _until(view.lost, step)
        view.skipped = _until(view.skipped, step)
        view.scorings = _until(view.scorings, step)
        view.trials = _until(view.trials, step)
        view.outcomes = _until(view.outcomes, step)


def _parse(line: bytes) -> AnyEvent | None:
    try:
        return event_type.validate_json(line)
    except ValidationError:
        return None


def _until(events: dict[Key, Kept], step: int) -> dict[Key, Kept]:
    return {key: event for key, event in events.items() if event.step <= step}


def _between(before: float | None, after: float | None) -> float:
    if before is None or after is None:
        return 0.0
    passed = after - before
    return passed if 0 <= passed < float("inf") else 0.0  # clocks are set back, and a torn file says anything
