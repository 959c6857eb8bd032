"""Who may be given work and who holds it: a state machine without sockets or a clock of its own.

A proposer says with `ready` what it can take. Each lease granted to it uses one of those credits and ends in exactly
one way: settled by its answer, released by the proposer, expired, or gone with its holder. No operation depends on the
number of peers or leases; `expire` costs what it ends.
"""

import secrets
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from bus.messages import Digest

Peer = bytes
Value = TypeVar("Value")
Ending = Literal["settled", "released", "expired", "gone"]


@dataclass(frozen=True)
class Lease:
    """The right of one peer to answer one digest."""

    id: str
    peer: Peer
    digest: Digest
    expires: float
    """Void from then on, in seconds of the caller's clock."""


@dataclass(frozen=True)
class Ended:
    """A lease and how it ended."""

    lease: Lease
    how: Ending


@dataclass
class _Standing:
    """What is known of a peer."""

    credits: int
    heard: float
    leases: dict[str, Lease] = field(default_factory=dict)
    """The live leases that it holds, oldest first."""


class Leases:
    """Leases and the peers they may go to.

    Every `now` is in seconds of one clock that never goes back. Time passes only in `expire`.

    Args:
        lease_seconds: how long a lease lives.
        forget_seconds: a peer that was not heard for this long is considered gone.
    """

    def __init__(self, *, lease_seconds: float, forget_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._forget_seconds = forget_seconds
        self._peers: OrderedDict[Peer, _Standing] = OrderedDict()  # by `heard`, the longest silent first
        self._free: OrderedDict[Peer, None] = OrderedDict()  # peers with credits, the longest waiting first
        self._live: OrderedDict[str, Lease] = OrderedDict()  # by `expires`, as all live equally long
        self._news: list[Ended] = []
        self.free_credits = 0
        """Leases that could be granted now."""
        self.ended: dict[str, int] = dict.fromkeys(get_args(Ending), 0)
        """Number of leases that ended, by how."""

    @property
    def peers(self) -> Collection[Peer]:
        """The peers that are connected."""
        return self._peers.keys()

    @property
    def live(self) -> Collection[Lease]:
        """The leases that have not ended, oldest first."""
        return self._live.values()

    @property
    def next_expiry(self) -> float | None:
        """When `expire` next has something to do, in seconds of the caller's clock; None if never."""
        lease, standing = _first(self._live), _first(self._peers)
        times = [lease.expires] if lease else []
        times += [standing.heard + self._forget_seconds] if standing else []
        return min(times, default=None)

    def take_ended(self) -> list[Ended]:
        """The leases that ended since the last call, in the order in which they did."""
        news, self._news = self._news, []
        return news

    def ready(self, peer: Peer, credits: int, holding: Collection[str], now: float) -> None:
        """`peer` can take `credits` leases beyond those in `holding`.

        A lease may be on its way while this was said. It takes one of these credits, so that a ready that was
        repeated, or that crossed a lease, never brings a second lease for the same credit.
        """
        standing = self._peers.setdefault(peer, _Standing(0, now))
        underway = len(standing.leases.keys() - set(holding))
        self._set_credits(peer, standing, max(0, credits - underway))
        self.heard(peer, now)

    def heard(self, peer: Peer, now: float) -> None:
        """`peer` said something, so it is alive."""
        if standing := self._peers.get(peer):
            standing.heard = now
            self._peers.move_to_end(peer)

    def grant(self, digest: Digest, now: float) -> Lease | None:
        """A new lease for the peer that has waited longest for one; None if no peer has a credit."""
        peer = next(iter(self._free), None)
        if peer is None:
            return None
        self._free.move_to_end(peer)  # its next turn comes after everyone else's
        standing = self._peers[peer]
        self._set_credits(peer, standing, standing.credits - 1)
        lease = Lease(secrets.token_hex(16), peer, digest, now + self._lease_seconds)
        self._live[lease.id] = lease
        standing.leases[lease.id] = lease
        return lease

    def settle(self, lease: str, peer: Peer) -> Lease | None:
        """End a lease by its answer; None if it is unknown, void or another peer's."""
        return self._end_held(lease, peer, "settled")

    def release(self, lease: str, peer: Peer) -> Lease | None:
        """End a lease without an answer; None if it is unknown, void or another peer's."""
        return self._end_held(lease, peer, "released")

    def gone(self, peer: Peer) -> None:
        """`peer` left: forget it, and end its leases."""
        if standing := self._peers.get(peer):
            self._set_credits(peer, standing, 0)
            for lease in list(standing.leases.values()):
                self._end(lease, "gone")
            del self._peers[peer]

    def expire(self, now: float) -> None:
        """End the leases that ran out, and forget the peers that fell silent."""
        while (lease := _first(self._live)) and now >= lease.expires:
            self._end(lease, "expired")
        while (standing := _first(self._peers)) and now - standing.heard >= self._forget_seconds:
            self.gone(next(iter(self._peers)))

    def _set_credits(self, peer: Peer, standing: _Standing, credits: int) -> None:
        self.free_credits += credits - standing.credits
        standing.credits = credits
        if credits:
            self._free.setdefault(peer)
        else:
            self._free.pop(peer, None)

    def _end_held(self, id_: str, peer: Peer, how: Ending) -> Lease | None:
        lease = self._live.get(id_)
        if lease is None or lease.peer != peer:
            return None
        self._end(lease, how)
        return lease

    def _end(self, lease: Lease, how: Ending) -> None:
        del self._live[lease.id]
        del self._peers[lease.peer].leases[lease.id]
        self.ended[how] += 1
        self._news.append(Ended(lease, how))


def _first(ordered: OrderedDict[str, Value] | OrderedDict[Peer, Value]) -> Value | None:
    """The oldest value, if any; constant time, which a plain dict does not promise."""
    return next(iter(ordered.values()), None)
