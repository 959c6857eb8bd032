"""What trainer and proposers say to each other. docs/protocol.md describes the conversation.

All that passes between the two is one of the messages below. Text fields of a `Proposal` come from
an LLM and are untrusted: whoever reads them caps and cleans them.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

VERSION: Literal[1] = 1

Short = Annotated[str, StringConstraints(max_length=200)]
Words = Annotated[str, StringConstraints(max_length=2000)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Part(BaseModel):
    """A piece of a message; unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Measured(Part):
    """A prompt in words with what the development split said of it."""

    words: Words
    loss: float
    accuracy: float


class Point(Part):
    """One sampled point of the incumbent's trajectory."""

    step: Count
    """Lane-steps spent when it was taken."""
    words: Words
    """The words nearest to each position of the prompt."""
    nearness: float
    """Mean cosine between the positions and those words, 1 where the prompt is words."""
    train_loss: float | None
    """Mean over the steps since the last point; none before the first step."""
    dev_loss: float
    dev_accuracy: float


class Push(Part):
    """Where the gradient pushes one position of the prompt."""

    position: Count
    word: Short
    """The word it is nearest to now."""
    toward: list[Short] = Field(max_length=16)
    """Words whose embeddings have the most negative inner product with the gradient, best first."""


class Slope(Part):
    """How the descent goes."""

    loss_per_step: float
    """Least-squares slope of the recent training losses; negative while it improves."""
    gradient_norm: float
    plateau: bool
    """True when the development loss has stopped improving."""


class Fate(Part):
    """What became of one candidate."""

    words: Words
    fate: Literal["adopted", "dropped", "outscored", "duplicate", "empty", "late", "diverged", "unfinished"]
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
    """A run's name, unique for each start of a trainer."""
    sequence: Count
    """Counts the digests of a run."""
    step: Count
    """Lane-steps spent."""
    budget: Count
    """Lane-steps in all."""
    task: Words
    """One line that says what the task is."""
    labels: list[Short] = Field(max_length=1000)
    tokens: Annotated[int, Field(gt=0, le=256)]
    """Longest prompt that is of use, in tokens of the backbone."""
    wanted: Annotated[int, Field(gt=0, le=64)]
    """How many candidates are asked for."""
    trajectory: list[Point] = Field(max_length=64)
    """Oldest first."""
    pushes: list[Push] = Field(max_length=256)
    slope: Slope | None
    """None before the incumbent's first step."""
    best: list[Measured] = Field(max_length=64)
    """Prompts in words that were measured, the best first."""
    fates: list[Fate] = Field(max_length=64)
    """What became of earlier candidates, newest last."""


class Ready(Part):
    """Proposer to trainer: what I can take now. Repeated, so that losing one costs nothing."""

    v: Literal[1] = VERSION
    kind: Literal["ready"] = "ready"
    name: Short
    """For people and metrics; never an identity."""
    model: Short
    credits: Annotated[int, Field(ge=0, le=64)]
    """Leases I can take beyond those I hold."""
    holding: list[Short] = Field(max_length=64)
    """Leases that reached me and are not yet answered."""


class Heard(Part):
    """Trainer to proposer: the answer to each ready. Says that the trainer's loop is alive, not only its host."""

    v: Literal[1] = VERSION
    kind: Literal["heard"] = "heard"
    run: Short


class Work(Part):
    """Trainer to proposer: a lease on the newest digest."""

    v: Literal[1] = VERSION
    kind: Literal["work"] = "work"
    lease: Short
    seconds: Annotated[float, Field(gt=0)]
    """The lease is void so long after it was sent."""
    digest: Digest


class Usage(Part):
    """What an answer cost."""

    seconds: Annotated[float, Field(ge=0)]
    tokens_in: Count | None = None
    tokens_out: Count | None = None


class Proposal(Part):
    """Proposer to trainer: the answer to a lease, and its end."""

    v: Literal[1] = VERSION
    kind: Literal["proposal"] = "proposal"
    lease: Short
    model: Short
    candidates: list[Words] = Field(max_length=64)
    """Prompts in words; empty when the LLM gave nothing of use."""
    usage: Usage


class Outcome(Part):
    """Trainer to every proposer: what became of candidates."""

    v: Literal[1] = VERSION
    kind: Literal["outcome"] = "outcome"
    run: Short
    lease: Short
    step: Count
    fates: list[Fate] = Field(max_length=64)


class Reject(Part):
    """Either way: a message could not be used."""

    v: Literal[1] = VERSION
    kind: Literal["reject"] = "reject"
    reason: Literal["version", "malformed", "lease", "busy", "failed"]
    """version: speak another; malformed: not a message; lease: unknown, void or another's;
    busy: no free slot after all; failed: the LLM could not be asked. The last two free the lease at once."""
    detail: Short = ""
    lease: Short | None = None


class Bye(Part):
    """Either way: I am leaving; leases between us are void."""

    v: Literal[1] = VERSION
    kind: Literal["bye"] = "bye"
    run: Short | None = None
    """The run that ends, when a trainer leaves."""


Message = Ready | Heard | Work | Proposal | Outcome | Reject | Bye

message_type: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])
