"""The bus as all ranks see it: rank 0 exchanges messages with proposers, and the others learn what it received."""

from bus.channel import ALWAYS, Channel, Counts, Event
from bus.leases import Lease
from bus.messages import Digest, Outcomes
from trainer import ranks


class SharedChannel:
    """A `bus.channel.Channel` for each rank, whose `poll`, `lease` and `wait` give all ranks what rank 0 received.

    Args:
        channel: the channel of rank 0; None on other ranks.
    """

    news = ALWAYS

    def __init__(self, channel: Channel | None) -> None:
        self._channel = channel
        self._can_lease = False

    def poll(self) -> list[Event]:
        """See `bus.channel.Channel`. The one exchange of an iteration."""
        events, self._can_lease = ranks.broadcast(
            (self._channel.poll(), self._channel.can_lease()) if self._channel else ([], False)
        )
        return events

    def can_lease(self) -> bool:
        """See `bus.channel.Channel`. As of the last `poll` or `lease`."""
        return self._can_lease

    def lease(self, digest: Digest, proposals: int) -> list[Lease]:
        """See `bus.channel.Channel`."""
        leases, self._can_lease = ranks.broadcast(
            (self._channel.lease(digest, proposals), self._channel.can_lease()) if self._channel else ([], False)
        )
        return leases

    def tell(self, outcome: Outcomes) -> None:
        """See `bus.channel.Channel`."""
        if self._channel:
            self._channel.tell(outcome)

    def wait(self, seconds: float) -> bool:
        """See `bus.channel.Channel`."""
        return ranks.broadcast(self._channel is not None and self._channel.wait(seconds))

    def counts(self) -> Counts:
        """See `bus.channel.Channel`. Nothing on other ranks than 0."""
        return self._channel.counts() if self._channel else Counts(0, 0, {}, {})

    def close(self) -> None:
        """See `bus.channel.Channel`."""
        if self._channel:
            self._channel.close()
