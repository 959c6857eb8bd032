"""Events of a run, for whoever listens: history and log lines, metrics, trajectory, proposers, and callers of the API.

A listener is called in the training loop, after the change that the event reports, and must return at once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bus.channel import Answer, Counts
from bus.messages import CandidateOutcome, Digest, Point
from trainer.search.restarts import Candidate

if TYPE_CHECKING:  # these load torch, which metrics and bus are there before
    from trainer.search.evaluation import EvalResult
    from trainer.search.lanes import Lane


@dataclass(frozen=True)
class Stepped:
    """One gradient step of `lanes`, in one iteration of the loop."""

    lane_steps: int
    """After the step."""
    lanes: "list[Lane]"
    train_losses: list[float]
    """By lane."""
    step_seconds: float
    """The iteration without its bus work."""
    bus_seconds: float
    counts: Counts | None
    """How the bus stands, every few iterations; None in between and without proposers."""
    digest_waits: bool = False
    """Whether proposals are due and no proposer is free; known where `counts` are."""


@dataclass(frozen=True)
class Evaluated:
    """The development split was measured on all lanes; `point` is the incumbent's."""

    point: Point
    lanes: "list[Lane]"
    results: "list[EvalResult]"
    """By lane."""
    seconds: float
    """Training time so far."""


@dataclass(frozen=True)
class DigestLeased:
    """A digest was leased to one or more proposers."""

    digest: Digest
    leases: list[str]


@dataclass(frozen=True)
class LeaseLost:
    """A lease ended without an answer."""

    lease: str
    how: str
    """released, expired or gone"""
    lane_steps: int


@dataclass(frozen=True)
class RequestSkipped:
    """A sync request had no answer within `seconds`."""

    lane_steps: int
    seconds: float


@dataclass(frozen=True)
class ProposalReceived:
    """A proposal arrived; `new` of its candidates are to be measured."""

    answer: Answer
    lane_steps: int
    new: int


@dataclass(frozen=True)
class CandidatesScored:
    """Candidates were measured on the development split, in `seconds`."""

    candidates: list[Candidate]
    lane_steps: int
    seconds: float
    held: int
    """Candidates that wait for the incumbent to stop improving."""


@dataclass(frozen=True)
class TrialOpened:
    """A challenger starts."""

    lane: "Lane"
    candidate: Candidate
    incumbent: "EvalResult"
    lane_steps: int


@dataclass(frozen=True)
class TrialJudged:
    """A trial ended, or a candidate replaced the incumbent without one."""

    lane: "Lane"
    lease: str
    outcome: CandidateOutcome
    lane_steps: int
    dev_loss: float | None = None
    """The challenger's development loss at judgement; None where it became NaN or infinite."""


@dataclass(frozen=True)
class CandidatesPassedOver:
    """Candidates of one lease that no lane tries."""

    lease: str
    outcomes: list[CandidateOutcome]
    lane_steps: int


@dataclass(frozen=True)
class WritesFailed:
    """The disk did not take what the run wrote. Training continues."""

    times: dict[str, int]
    """By file: history, record or checkpoint. Counted since the process began."""


Event = (
    Stepped
    | Evaluated
    | DigestLeased
    | LeaseLost
    | RequestSkipped
    | ProposalReceived
    | CandidatesScored
    | TrialOpened
    | TrialJudged
    | CandidatesPassedOver
    | WritesFailed
)
Listener = Callable[[Event], None]


class Observers:
    """Passes each event on to every listener, in their order."""

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._listeners = list(listeners)

    def __call__(self, event: Event) -> None:
        """Report `event`."""
        for listener in self._listeners:
            listener(event)
