"""The events of `history.jsonl`. docs/history.md describes each of them.

Readers are tolerant: unknown fields are ignored, and all but what places an event may be missing, since
older runs wrote less.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Count = Annotated[int, Field(ge=0, le=2**53)]
Lane = Annotated[int, Field(ge=0, le=2**31)]
OutcomeName = Literal[
    "adopted", "dropped", "outscored", "duplicate", "empty", "late", "stale", "diverged", "unfinished"
]


class Event(BaseModel):
    """What every event has."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    step: Count = 0
    """Lane-steps when it was written."""
    time: float | None = None
    """Unix seconds."""


class About(Event):
    """What a reader needs to know of a run."""

    name: str | None = None
    recipe: str | None = None
    seed: Count | None = None
    budget: Count | None = None
    """Lane-steps in all."""
    num_evals: Count | None = None
    policy: str | None = None
    source: str | None = None
    mode: str | None = None
    task: str | None = None
    """One line that says what the task is."""
    labels: list[str] = []
    """The classes in words."""
    settings: str | None = None
    """Digest of the settings."""
    versions: dict[str, str] = {}
    """Of Python and the packages that shape the result, by name."""


class Started(About):
    """The run began; what a reader knew of the file before is void."""

    kind: Literal["started"] = "started"


class Stopped(Event):
    """A signal or an error ended the process; the run can be resumed."""

    kind: Literal["stopped"] = "stopped"
    reason: str | None = None


class Resumed(About):
    """The run continues from the checkpoint at `step`; later events from before are void."""

    kind: Literal["resumed"] = "resumed"


class Ended(Event):
    """The budget is used up; the result follows in summary.json."""

    kind: Literal["ended"] = "ended"
    seconds: float | None = None
    """Training time over all processes of the run."""


class GradientStep(Event):
    """One gradient step of all lanes; `step` counts it."""

    kind: Literal["step"] = "step"
    lanes: list[Lane] = []
    train_losses: list[float | None] = []
    """Mean cross-entropy in nats of the batch, for each of `lanes`."""
    bus_seconds: float | None = None
    """Bus and restart bookkeeping of this iteration, scoring included."""


class LaneEvaluation(BaseModel):
    """One lane's loss on the development split."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    lane: Lane
    age: Count | None = None
    """Steps it has trained."""
    loss: float | None = None
    accuracy: float | None = None


class Evaluation(Event):
    """All lanes were evaluated on the development split; the first is the incumbent."""

    kind: Literal["evaluation"] = "evaluation"
    words: str = ""
    """The words nearest to the incumbent's prompt."""
    cosine: float | None = None
    """Mean cosine between its positions and those words."""
    train_loss: float | None = None
    """Mean over the incumbent's steps since the evaluation before."""
    dev_loss: float | None = None
    dev_accuracy: float | None = None
    seconds: float | None = None
    """Training time so far, over all processes of the run."""
    lanes: list[LaneEvaluation] = []


class Substitution(BaseModel):
    """Where the gradient pushes one position of the incumbent's prompt."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    position: Count
    word: str
    """The word it is nearest to."""
    replacements: list[str] = []
    """Words that the loss falls toward, steepest first."""


class Slope(BaseModel):
    """How the descent goes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    loss_per_step: float | None = None
    """Least-squares slope of the recent training losses."""
    gradient_norm: float | None = None
    plateau: bool | None = None
    """Whether the development loss has stopped improving."""


class DigestLeased(Event):
    """A digest was leased to one or more proposers."""

    kind: Literal["digest"] = "digest"
    sequence: Count
    """Counts the digests of a run."""
    num_candidates: Count | None = None
    """Candidates asked for."""
    leases: list[str] = []
    substitutions: list[Substitution] = []
    slope: Slope | None = None


class ProposalArrived(Event):
    """A proposer answered."""

    kind: Literal["proposal"] = "proposal"
    asked: Count = 0
    """Lane-steps when its digest was taken."""
    lease: str
    model: str = ""
    candidates: Count | None = None
    """How many it holds."""
    new: Count | None = None
    """Those that were not seen before."""
    seconds: float | None = None
    """What the LLM took."""
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cost: float | None = None
    """Money, where the proposer's settings have prices."""


class LeaseEnded(Event):
    """A lease ended without an answer."""

    kind: Literal["lease_ended"] = "lease_ended"
    lease: str
    how: str = ""


class RequestSkipped(Event):
    """A round of sync mode ended without an answer."""

    kind: Literal["request_skipped"] = "request_skipped"
    waited_seconds: float | None = None


class Scored(BaseModel):
    """One candidate with the development loss of its words."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    words: str
    lease: str = ""
    asked: Count = 0
    score: float | None = None


class CandidatesScored(Event):
    """New candidates were scored on the development split, in one pass."""

    kind: Literal["candidates"] = "candidates"
    scored: list[Scored] = []
    seconds: float | None = None
    """What that pass took."""


class TrialOpened(Event):
    """A challenger lane started from a candidate."""

    kind: Literal["trial"] = "trial"
    lane: Lane
    words: str = ""
    score: float | None = None
    lease: str | None = None


class OutcomeReached(Event):
    """What became of one candidate."""

    kind: Literal["outcome"] = "outcome"
    words: str = ""
    outcome: OutcomeName
    score: float | None = None
    """Development loss of the words themselves."""
    gain: float | None = None
    """Development loss of the incumbent minus that of the challenger, at judgement."""
    lane: Lane | None = None
    """The lane that tried it, if any did."""
    lease: str | None = None
    dev_loss: float | None = None
    """The challenger's development loss at judgement."""


AnyEvent = (
    Started
    | Stopped
    | Resumed
    | Ended
    | GradientStep
    | Evaluation
    | DigestLeased
    | ProposalArrived
    | LeaseEnded
    | RequestSkipped
    | CandidatesScored
    | TrialOpened
    | OutcomeReached
)

event_type: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="kind")])
