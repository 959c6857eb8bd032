"""Trainer and proposer in one process, without sockets: the proposer is a function."""

from collections.abc import Callable
from math import inf

from bus.channel import ALWAYS, Answer, Counts, Event, LeaseEnded
from bus.leases import Lease, Leases
from bus.messages import Digest, Outcomes, Proposal, Usage

PEER = b"in process"


class InProcessChannel:
    """A `bus.channel.Channel` whose only proposer is `propose`, called when it is given a lease.

    Args:
        propose: returns candidates in words, or None to give the lease back.
        model: the name of the proposer in proposals.
        hear: called with every outcome.
    """

    news = ALWAYS
    """See `bus.channel.Channel`."""

    def __init__(
        self,
        propose: Callable[[Digest], list[str] | None],
        *,
        model: str,
        hear: Callable[[Outcomes], None] | None = None,
    ) -> None:
        self._propose = propose
        self._model = model
        self._hear = hear
        self._leases = Leases(lease_seconds=inf, forget_seconds=inf)
        self._leases.ready(PEER, 1, [], now=0.0)
        self._events: list[Event] = []

    def poll(self) -> list[Event]:
        """See `bus.channel.Channel`."""
        if not self._events:
            return []
        events, self._events = self._events, []
        self._leases.take_ended()  # else it would keep every digest
        self._leases.ready(PEER, 1, [], now=0.0)
        return events

    def can_lease(self) -> bool:
        """See `bus.channel.Channel`."""
        return self._leases.free_credits > 0

    def lease(self, digest: Digest, proposals: int) -> list[Lease]:
        """See `bus.channel.Channel`. The answer can be polled when this returns."""
        lease = self._leases.grant(digest, now=0.0) if proposals > 0 else None
        if lease is None:
            return []
        candidates = self._propose(digest)
        if candidates is None:
            self._leases.release(lease.id, PEER)
            self._events.append(LeaseEnded(lease.id, digest, "released"))
        else:
            self._leases.settle(lease.id, PEER)
            proposal = Proposal(lease=lease.id, model=self._model, candidates=candidates, usage=Usage(seconds=0.0))
            self._events.append(Answer(proposal, digest))
        return [lease]

    def tell(self, outcome: Outcomes) -> None:
        """See `bus.channel.Channel`."""
        if self._hear is not None:
            self._hear(outcome)

    def wait(self, seconds: float) -> bool:  # noqa: ARG002  the answer is there or never comes
        """See `bus.channel.Channel`. Never sleeps."""
        return bool(self._events)

    def counts(self) -> Counts:
        """See `bus.channel.Channel`."""
        return Counts(len(self._leases.peers), len(self._leases.live), dict(self._leases.ended), {})

    def close(self) -> None:
        """See `bus.channel.Channel`."""
