"""Who may be given work and who holds it: a state machine without sockets or a clock of its own.

A proposer says with `ready` what it can take. Each lease granted to it uses one of those credits up and
ends in exactly one way: settled by its answer, released by the proposer, expired, or gone with its holder.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from bus.messages import Digest

Peer = bytes
Ending = Literal["settled", "released", "expired", "gone"]


@dataclass(frozen=True)
class Lease:
    """The right of one peer to answer one digest."""

    id: str
    peer: Peer
    digest: Digest
    expires: float
    """Void from then on, in seconds of the caller's clock."""


@dataclass
class _Standing:
    """What a peer last said."""

    credits: int
    heard: float


class Leases:
    """Leases and the peers they may go to.

    Every `now` is in seconds of one clock that never goes back. `lease_seconds` is how long a lease lives;
    a peer that has not said ready for `forget_seconds` is taken for gone.
    """

    def __init__(self, *, lease_seconds: float, forget_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._forget_seconds = forget_seconds
        self._peers: dict[Peer, _Standing] = {}  # in the order of their turns
        self._live: dict[str, Lease] = {}
        self._free = 0
        self.ended: dict[str, int] = dict.fromkeys(get_args(Ending), 0)
        """How the leases so far ended."""

    @property
    def peers(self) -> list[Peer]:
        """Who is there, the one whose turn is next first."""
        return list(self._peers)

    @property
    def live(self) -> list[Lease]:
        """The leases that have not ended, oldest first."""
        return list(self._live.values())

    def ready(self, peer: Peer, credits: int, holding: Collection[str], now: float) -> None:
        """`peer` can take `credits` leases beyond those in `holding`.

        A lease may be on its way while this was said. It takes one of these credits, so that a ready
        that was repeated, or that crossed a lease, never brings a second lease for the same credit.
        """
        underway = sum(lease.peer == peer and lease.id not in holding for lease in self._live.values())
        standing = self._peers.setdefault(peer, _Standing(0, now))
        standing.credits = max(0, credits - underway)
        standing.heard = now
        self._count_free()

    def can_grant(self) -> bool:
        """Whether some peer has a credit. Asked every step, so it is counted when credits change."""
        return self._free > 0

    def grant(self, digest: Digest, now: float) -> Lease | None:
        """A new lease for the peer that has waited longest for one; None if no peer has a credit."""
        peer = next((peer for peer, standing in self._peers.items() if standing.credits > 0), None)
        if peer is None:
            return None
        standing = self._peers.pop(peer)
        standing.credits -= 1
        self._peers[peer] = standing  # at the end: its next turn comes after everyone else's
        self._count_free()
        lease = Lease(secrets.token_hex(16), peer, digest, now + self._lease_seconds)
        self._live[lease.id] = lease
        return lease

    def settle(self, lease: str, peer: Peer, now: float) -> Lease | None:
        """End a lease by its answer; None if it is unknown, void or another peer's."""
        return self._end_held(lease, peer, now, "settled")

    def release(self, lease: str, peer: Peer, now: float) -> Lease | None:
        """End a lease without an answer; None if it is unknown, void or another peer's."""
        return self._end_held(lease, peer, now, "released")

    def gone(self, peer: Peer) -> None:
        """`peer` left: forget it, and end its leases."""
        self._peers.pop(peer, None)
        self._count_free()
        for lease in self.live:
            if lease.peer == peer:
                self._end(lease, "gone")

    def expire(self, now: float) -> None:
        """End the leases that ran out, and forget the peers that fell silent."""
        for lease in self.live:
            if now >= lease.expires:
                self._end(lease, "expired")
        for peer, standing in list(self._peers.items()):
            if now - standing.heard >= self._forget_seconds:
                self.gone(peer)

    def _count_free(self) -> None:
        self._free = sum(standing.credits for standing in self._peers.values())

    def _end_held(self, id_: str, peer: Peer, now: float, ending: Ending) -> Lease | None:
        lease = self._live.get(id_)
        if lease is None or lease.peer != peer:
            return None
        if now >= lease.expires:
            self._end(lease, "expired")
            return None
        self._end(lease, ending)
        return lease

    def _end(self, lease: Lease, ending: Ending) -> None:
        del self._live[lease.id]
        self.ended[ending] += 1
