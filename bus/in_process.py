"""Both ends of the bus in one process, without sockets: the proposer is a function."""

from collections.abc import Callable

from bus.channel import Answer, Counts
from bus.leases import Lease, Leases
from bus.messages import Digest, Outcome, Proposal, Usage

PEER = b"memory"
FOREVER_SECONDS = 1e9  # finite, because a record writes a lease's seconds down


class InProcessChannel:
    """A `bus.channel.Channel` whose only proposer is `propose`, run at once when it is given a lease.

    `propose` gives candidates in words, or None to give the lease back. `hear` is told every outcome.
    """

    def __init__(
        self,
        propose: Callable[[Digest], list[str] | None],
        *,
        model: str,
        hear: Callable[[Outcome], None] | None = None,
    ) -> None:
        self._propose = propose
        self._model = model
        self._hear = hear
        self._leases = Leases(lease_seconds=FOREVER_SECONDS, forget_seconds=FOREVER_SECONDS)
        self._leases.ready(PEER, 1, [], now=0.0)
        self._answers: list[Answer] = []

    def poll(self, now: float) -> list[Answer]:
        """See `bus.channel.Channel`."""
        answers, self._answers = self._answers, []
        for answer in answers:
            self._leases.settle(answer.proposal.lease, PEER, now)
        self._leases.ready(PEER, 1, [], now)
        return answers

    def can_lease(self) -> bool:
        """See `bus.channel.Channel`."""
        return self._leases.can_grant()

    def lease(self, digest: Digest, now: float) -> Lease | None:
        """See `bus.channel.Channel`. The answer is there when this returns."""
        lease = self._leases.grant(digest, now)
        if lease is None:
            return None
        candidates = self._propose(digest)
        if candidates is None:
            self._leases.release(lease.id, PEER, now)
            return lease
        proposal = Proposal(lease=lease.id, model=self._model, candidates=candidates, usage=Usage(seconds=0.0))
        self._answers.append(Answer(proposal, digest))
        return lease

    def tell(self, outcome: Outcome) -> None:
        """See `bus.channel.Channel`."""
        if self._hear is not None:
            self._hear(outcome)

    def wait(self, seconds: float) -> None:
        """Nothing to wait for: what will come is there already."""

    def counts(self) -> Counts:
        """See `bus.channel.Channel`."""
        return Counts(len(self._leases.peers), len(self._leases.live), dict(self._leases.ended), {})

    def close(self) -> None:
        """Nothing to leave."""
