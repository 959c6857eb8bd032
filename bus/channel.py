"""The trainer's side of the bus, whatever is behind it: sockets, a function in this process, or a recorded run.

The contract:

- `lease(digest, proposals)` asks for up to `proposals` answers to one digest and returns the leases that were granted.
- Each of these leases ends in exactly one event from `poll`: an `Answer`, which settles it, or a `LeaseEnded`, which
  says that no answer will come. A request is done when it is settled; after a `LeaseEnded` it can be made again.
- A channel that continues a recorded run ends the leases of the process before it: the first `poll` returns a
  `LeaseEnded` for each.
- While `news` is empty, neither `poll` nor `can_lease` says anything new: a turn of the loop costs one look at it.
- `poll`, `can_lease` and `counts` take microseconds. `wait` is the only call that sleeps.
- All calls come from one thread.
"""

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Literal, Protocol

from bus.leases import Lease
from bus.messages import Digest, Outcomes, Proposal


@dataclass(frozen=True)
class Answer:
    """A proposal that settled its lease."""

    proposal: Proposal
    digest: Digest
    """The digest that was leased; its `step` gives the age of the proposer's view."""


@dataclass(frozen=True)
class LeaseEnded:
    """A lease that ended without an answer."""

    lease: str
    digest: Digest
    how: Literal["released", "expired", "gone"]
    """released: the proposer gave it back, busy or because its LLM failed; expired: no answer in time;
    gone: the proposer left or fell silent, or the trainer was restarted."""


Event = Answer | LeaseEnded


@dataclass(frozen=True)
class Counts:
    """State of the bus, for the metrics."""

    peers: int
    """Proposers that are connected."""
    live: int
    """Leases that have not ended."""
    ended: Mapping[str, int]
    """Leases that ended, by how; never decreases."""
    rejected: Mapping[str, int]
    """Messages that were rejected, by reason; never decreases."""


ALWAYS = ("look",)
"""`Channel.news` of a channel whose `poll` and `can_lease` must be called in every iteration."""


class Channel(Protocol):
    """The trainer's side of the bus."""

    @property
    def news(self) -> Sized:
        """Not empty if there may be events, or a proposer became free, since the last `poll`. The object never changes,
        so the loop keeps it: after a step, even an empty call takes microseconds.
        """

    def poll(self) -> list[Event]:
        """The events since the last call, oldest first; never waits."""

    def can_lease(self) -> bool:
        """Whether a proposer is free, so that building a digest is worth its cost."""

    def lease(self, digest: Digest, proposals: int) -> list[Lease]:
        """Lease `digest` up to `proposals` times, spread over the proposers that are free.

        Fewer leases come back if fewer can be taken; none if the free proposer left since `can_lease`.

        Raises:
            TooLong: the digest does not fit into a frame.
        """

    def tell(self, outcome: Outcomes) -> None:
        """Send `outcome` to every proposer; never waits."""

    def wait(self, seconds: float) -> bool:
        """Sleep until there may be an event to poll or a proposer to lease to, at most `seconds`.

        Returns:
            False if waiting is useless: nothing more comes until the caller leases or trains on. A replay and an
            in-process proposer know that; a socket always returns True.
        """

    def counts(self) -> Counts:
        """Proposers, leases and rejected messages."""

    def close(self) -> None:
        """Leave the bus. Idempotent."""
