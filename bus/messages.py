"""What trainer and proposers say to each other. docs/protocol.md describes the conversation.

All that passes between the two is one of the messages below. Text fields of a `Proposal` come from
an LLM and are untrusted: whoever reads them caps and cleans them.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

VERSION: Literal[2] = 2

Short = Annotated[str, StringConstraints(max_length=200)]
Words = Annotated[str, StringConstraints(max_length=2000)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Part(BaseModel):
    """A part of a message; unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Measured(Part):
    """A prompt in words and its result on the development split."""

    words: Words
    loss: float
    accuracy: float


class Point(Part):
    """One sampled point of the incumbent's trajectory."""

    step: Count
    """Lane-steps when it was taken."""
    words: Words
    """The words nearest to each position of the prompt."""
    cosine: float
    """Mean cosine similarity of the positions and those words; 1 where the prompt is words."""
    train_loss: float | None
    """Mean over the steps since the last point; None before the first step."""
    dev_loss: float
    dev_accuracy: float


class Substitution(Part):
    """Words that the gradient would put at one position of the prompt."""

    position: Count
    word: Short
    """The word it is nearest to now."""
    replacements: list[Short] = Field(max_length=16)
    """Words whose embeddings have the most negative inner product with the gradient, best first (HotFlip,
    arXiv 1712.06751)."""


class Slope(Part):
    """Progress of gradient descent."""

    loss_per_step: float
    """Least-squares slope of the recent training losses; negative while it improves."""
    gradient_norm: float
    plateau: bool
    """True when the development loss has stopped improving."""


class CandidateOutcome(Part):
    """What became of one candidate."""

    words: Words
    outcome: Literal["adopted", "dropped", "outscored", "duplicate", "empty", "late", "diverged", "unfinished"]
    """adopted: it replaced the incumbent; dropped: it lost its trial; outscored: measured, not tried;
    duplicate, empty: not measured; late: the budget left was too small to try it; diverged: its loss became NaN or
    infinite; unfinished: the budget ended before its trial did."""
    score: float | None = None
    """Development loss of the words themselves, before any step."""
    gain: float | None = None
    """Development loss of the incumbent minus that of the challenger, at judgement; above 0 is better."""


class Digest(Part):
    """The gradient trajectory in words and numbers, a few KiB."""

    run: Short
    """Unique for each start of a trainer: the run's name and a random part. Proposers keep a memory for each."""
    sequence: Count
    """Counts the digests of a run."""
    step: Count
    """Lane-steps so far."""
    budget: Count
    """Lane-steps in all."""
    task: Words
    """One line that says what the task is."""
    labels: list[Short] = Field(max_length=1000)
    num_tokens: Annotated[int, Field(gt=0, le=256)]
    """Longest useful prompt, in tokens of the backbone."""
    num_candidates: Annotated[int, Field(gt=0, le=64)]
    """How many candidates are asked for."""
    trajectory: list[Point] = Field(max_length=64)
    """Oldest first."""
    substitutions: list[Substitution] = Field(max_length=256)
    slope: Slope | None
    """None before the incumbent's first step."""
    best: list[Measured] = Field(max_length=64)
    """Prompts in words that were measured, the best first."""
    outcomes: list[CandidateOutcome] = Field(max_length=64)
    """What became of earlier candidates, newest last."""


class Ready(Part):
    """Proposer to trainer: what I can take now. Repeated, so that losing one costs nothing."""

    v: Literal[2] = VERSION
    kind: Literal["ready"] = "ready"
    name: Short
    """For people and metrics; never an identity."""
    model: Short
    credits: Annotated[int, Field(ge=0, le=64)]
    """Leases I can take beyond those I hold."""
    holding: list[Short] = Field(max_length=64)
    """Leases that reached me and are not yet answered."""


class Ack(Part):
    """Trainer to proposer: the answer to each ready. Says that the trainer's bus is alive."""

    v: Literal[2] = VERSION
    kind: Literal["ack"] = "ack"
    run: Short


class Work(Part):
    """Trainer to proposer: a lease on the newest digest."""

    v: Literal[2] = VERSION
    kind: Literal["work"] = "work"
    lease: Short
    seconds: Annotated[float, Field(gt=0)]
    """The lease is void this long after it was sent."""
    digest: Digest


class Usage(Part):
    """What an answer cost."""

    seconds: Annotated[float, Field(ge=0)]
    input_tokens: Count | None = None
    output_tokens: Count | None = None


class Proposal(Part):
    """Proposer to trainer: the answer to a lease, and its end."""

    v: Literal[2] = VERSION
    kind: Literal["proposal"] = "proposal"
    lease: Short
    model: Short
    candidates: list[Words] = Field(max_length=64)
    """Prompts in words; empty when the LLM gave nothing of use."""
    usage: Usage


class Outcomes(Part):
    """Trainer to every proposer: what became of candidates."""

    v: Literal[2] = VERSION
    kind: Literal["outcomes"] = "outcomes"
    run: Short
    lease: Short
    step: Count
    """Lane-steps so far."""
    outcomes: list[CandidateOutcome] = Field(max_length=64)


class Reject(Part):
    """Either way: a message could not be used."""

    v: Literal[2] = VERSION
    kind: Literal["reject"] = "reject"
    reason: Literal["version", "malformed", "lease", "key", "busy", "failed"]
    """version: speak another; malformed: not a message; lease: unknown, void or another's; key: admitted no longer;
    busy: no free slot; failed: the LLM gave no answer. The last two release the lease."""
    detail: Short = ""
    lease: Short | None = None


class Bye(Part):
    """Either way: I am leaving; leases between us are void."""

    v: Literal[2] = VERSION
    kind: Literal["bye"] = "bye"
    run: Short | None = None
    """The run that ends, when a trainer leaves."""


Message = Ready | Ack | Work | Proposal | Outcomes | Reject | Bye

message_type: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])
