"""A request that is made while the trainer still loads its model."""

import threading

from bus.channel import Answer, Channel, Counts, Event, LeaseEnded
from bus.codec import TooLong
from bus.leases import Lease
from bus.messages import Digest, Outcomes

LOOK_SECONDS = 0.02
"""The thread looks this often whether the trainer has come."""


class EarlyChannel:
    """A `bus.channel.Channel` that leases its first digest from a thread of its own, before anybody calls it.

    The first call of any method ends the thread. `lease` then hands over the early leases, whose digest must be
    `digest`, and `poll` returns their answers after that.

    Args:
        channel: where proposals come from; not to be used by anybody else.
        digest: the first digest.
        proposals: most answers to it.
    """

    def __init__(self, channel: Channel, digest: Digest, proposals: int) -> None:
        self._channel = channel
        self._digest = digest
        self._proposals = proposals
        self._leases: list[Lease] = []
        """Not handed over."""
        self._events: list[Event] = []
        """Answers to them."""
        self.news = channel.news
        """See `bus.channel.Channel`."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="early request", daemon=True)
        self._thread.start()

    def poll(self) -> list[Event]:
        """See `bus.channel.Channel`."""
        self._take_over()
        self._sort(self._channel.poll())
        if self._leases:
            return []  # an answer to a lease that nobody has
        events, self._events = self._events, []
        return events

    def can_lease(self) -> bool:
        """See `bus.channel.Channel`."""
        self._take_over()
        return bool(self._leases) or self._channel.can_lease()

    def lease(self, digest: Digest, proposals: int) -> list[Lease]:
        """See `bus.channel.Channel`."""
        self._take_over()
        if not self._leases:
            return self._channel.lease(digest, proposals)
        leases, self._leases = self._leases, []
        return leases

    def tell(self, outcome: Outcomes) -> None:
        """See `bus.channel.Channel`."""
        self._take_over()
        self._channel.tell(outcome)

    def wait(self, seconds: float) -> bool:
        """See `bus.channel.Channel`."""
        self._take_over()
        return bool(self._events) or self._channel.wait(seconds)

    def counts(self) -> Counts:
        """See `bus.channel.Channel`."""
        self._take_over()
        return self._channel.counts()

    def close(self) -> None:
        """See `bus.channel.Channel`."""
        self._take_over()
        self._channel.close()

    def _take_over(self) -> None:
        """Leave the channel to the caller's thread."""
        if not self._over.is_set():
            self._over.set()
            self._thread.join()

    def _ask(self) -> None:
        """Lease the digest to whoever is free, until the trainer comes or the channel is closed."""
        is_open = True
        while is_open and not self._over.is_set():
            if not self._leases and self._channel.can_lease():
                try:
                    self._leases = self._channel.lease(self._digest, self._proposals)
                except TooLong:
                    return  # the trainer's own lease says so
            is_open = self._channel.wait(LOOK_SECONDS)
            self._sort(self._channel.poll())

    def _sort(self, events: list[Event]) -> None:
        """Keep events; those of an early lease that ended without an answer end with it, unknown to the trainer."""
        ended = {event.lease for event in events if isinstance(event, LeaseEnded)}
        ended &= {lease.id for lease in self._leases}
        self._leases = [lease for lease in self._leases if lease.id not in ended]
        self._events += [event for event in events if isinstance(event, Answer) or event.lease not in ended]
