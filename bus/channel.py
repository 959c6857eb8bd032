"""What the trainer's loop asks of the bus, whatever is behind it: sockets, a function, or a recorded run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from bus.leases import Lease
from bus.messages import Digest, Outcome, Proposal


@dataclass(frozen=True)
class Answer:
    """A proposal that settled its lease."""

    proposal: Proposal
    digest: Digest
    """What was leased; its `step` says how old the answer's view is."""


@dataclass(frozen=True)
class Counts:
    """For the metrics."""

    peers: int
    """Proposers that are there."""
    live: int
    """Leases not yet ended."""
    ended: Mapping[str, int]
    """Leases that ended, by how."""
    rejected: dict[str, int]
    """Messages that were rejected, by reason."""


class Channel(Protocol):
    """The trainer's side of the bus. `now` is in seconds of one clock that never goes back."""

    def poll(self, now: float) -> list[Answer]:
        """The answers that have arrived. Called once a step; never waits."""

    def can_lease(self) -> bool:
        """Whether a proposer waits for work, so that building a digest is worth it."""

    def lease(self, digest: Digest, now: float) -> Lease | None:
        """Send `digest` to the next proposer; None if nobody can take it after all."""

    def tell(self, outcome: Outcome) -> None:
        """Send `outcome` to every proposer; never waits."""

    def wait(self, seconds: float) -> None:
        """Sleep until there is something to poll, or `seconds` are over."""

    def counts(self) -> Counts:
        """How things stand."""

    def close(self) -> None:
        """Leave."""
