"""A model of a trainer and its proposers on a simulated clock, around the real lease machine of `bus.leases`.

The trainer's thread reads as `bus.router` does: up to a number of messages in a pass, then a pause in proportion to the
processor time that they took. Messages are as long as the real ones. What is modelled is the rest: the time of an LLM,
messages that are lost, LLMs that fail, proposers that crash and come back.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import log
from statistics import quantiles
from typing import Any, Literal

from bus.codec import encode, encode_digest, encode_work
from bus.leases import Lease, Leases, Peer
from bus.messages import Ack, CandidateOutcome, Digest, Outcomes, Point, Proposal, Ready, Reject, Substitution, Usage
from bus.router import FRAMES_PER_PASS, LONGEST_PAUSE_SECONDS, PAUSE_FACTOR
from bus.sockets import SILENT_INTERVALS
from shared.settings import BusSettings


@dataclass(frozen=True)
class Pool:
    """What is simulated. Times are in seconds."""

    proposers: int
    request_every: int = 100
    """Iterations of the trainer between digests; 1 leases whenever a proposer is free."""
    leases: int = 5
    """Leases of a digest, at most."""
    step_seconds: float = 0.02
    ready_seconds: float = 2.0
    lease_seconds: float = 120.0
    llm_seconds: float = 5.0
    """Median time of an answer; its logarithm is normal."""
    llm_spread: float = 0.5
    """Standard deviation of that logarithm."""
    failures: float = 0.01
    """Share of requests that end at `timeout_seconds` without an answer."""
    timeout_seconds: float = 60.0
    loss: float = 0.001
    """Share of messages that are lost."""
    lifetime: float = 3600.0
    """Mean time until a proposer crashes."""
    absence: float = 30.0
    """Mean time until it is back."""
    outcomes: int = 4
    """Messages about an answer's candidates, each to every proposer."""
    read_seconds: float = 12e-6
    """Processor time of the trainer's thread for a message."""
    send_seconds: float = 3e-6
    """Processor time of the trainer's thread for sending one."""


@dataclass
class Figures:
    """What came of it."""

    seconds: float = 0.0
    granted: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    """Leases by how they ended, with those of the warm-up."""
    live: int = 0
    """Leases that had not ended."""
    settled: int = 0
    due: int = 0
    """Iterations in which a digest was due."""
    waiting: int = 0
    """Those of them in which no proposer was free."""
    ages: list[float] = field(default_factory=list)
    """Seconds from a digest to the reading of its answer."""
    idle: list[float] = field(default_factory=list)
    """Seconds from a proposer's answer to its next lease."""
    received: Counter[str] = field(default_factory=Counter)
    """Bytes to the trainer, by kind."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes from the trainer, by kind."""
    unread: int = 0
    """Messages that the trainer has not read."""
    delay: float = 0.0
    """Seconds that the last message it read had waited."""
    thread_seconds: float = 0.0
    """Processor time of the trainer's thread."""

    def age(self, which: int) -> float:
        """A percentile of `ages`; NaN without two answers."""
        return quantiles(self.ages, n=100)[which - 1] if len(self.ages) > 1 else float("nan")


Kind = Literal["ready", "proposal", "reject"]


@dataclass(eq=False)
class _Proposer:
    peer: Peer
    alive: bool = True
    lease: str | None = None
    free_since: float = 0.0
    turn: int = 0
    """Counts its readies; a repetition is due only if none came since."""


class Simulation:
    """A pool for a while, the same for the same `seed`."""

    def __init__(self, pool: Pool, seed: int = 0) -> None:
        self.figures = Figures()
        self._pool = pool
        self._random = random.Random(seed)
        self._now, self._start = 0.0, 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._peers = (number.to_bytes(4, "big") for number in count())
        self._proposers: dict[Peer, _Proposer] = {}
        self._leases = Leases(lease_seconds=pool.lease_seconds, forget_seconds=SILENT_INTERVALS * pool.ready_seconds)
        self._inbox: deque[tuple[float, Peer, Kind, Any]] = deque()
        self._reading = False
        self._sending = 0.0
        self._next_request = 0
        self._iteration = 0
        self._bytes = frame_bytes(pool.lease_seconds)
        for _ in range(pool.proposers):
            self._in(self._random.uniform(0, pool.ready_seconds), self._join)
        self._in(0.0, self._iterate)

    def run(self, seconds: float, warm_up: float = 0.0) -> Figures:
        """What happens in `seconds`, of which the first `warm_up` are not counted."""
        self._start = warm_up
        while self._agenda[0][0] <= seconds:
            self._now, _, action = heapq.heappop(self._agenda)
            action()
        figures = self.figures
        figures.seconds, figures.ended = seconds - self._start, Counter(self._leases.ended)
        figures.live, figures.unread = len(self._leases.live), len(self._inbox)
        return figures

    def _in(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self._now + seconds, next(self._order), action))

    @property
    def _counts(self) -> bool:
        """Whether the pool has settled down."""
        return self._now >= self._start

    # Proposers

    def _join(self) -> None:
        proposer = _Proposer(next(self._peers), free_since=self._now)
        self._proposers[proposer.peer] = proposer
        self._in(self._random.expovariate(1 / self._pool.lifetime), partial(self._crash, proposer))
        self._say_ready(proposer)

    def _crash(self, proposer: _Proposer) -> None:
        proposer.alive = False
        del self._proposers[proposer.peer]
        self._in(self._random.expovariate(1 / self._pool.absence), self._join)

    def _say_ready(self, proposer: _Proposer) -> None:
        proposer.turn += 1
        self._send(proposer, "ready", proposer.lease)
        self._in(self._pool.ready_seconds, partial(self._repeat_ready, proposer, proposer.turn))

    def _repeat_ready(self, proposer: _Proposer, turn: int) -> None:
        if proposer.alive and proposer.turn == turn:
            self._say_ready(proposer)

    def _take(self, peer: Peer, lease: str) -> None:
        proposer = self._proposers.get(peer)
        if proposer is None:
            return
        if self._counts:
            self.figures.idle.append(self._now - proposer.free_since)
        proposer.lease = lease
        self._say_ready(proposer)
        if self._random.random() < self._pool.failures:
            self._in(self._pool.timeout_seconds, partial(self._finish, proposer, "reject"))
        else:
            seconds = self._random.lognormvariate(log(self._pool.llm_seconds), self._pool.llm_spread)
            self._in(seconds, partial(self._finish, proposer, "proposal"))

    def _finish(self, proposer: _Proposer, kind: Kind) -> None:
        if proposer.alive:
            self._send(proposer, kind, proposer.lease)
            proposer.lease, proposer.free_since = None, self._now
            self._say_ready(proposer)

    def _send(self, proposer: _Proposer, kind: Kind, lease: str | None) -> None:
        if self._random.random() < self._pool.loss:
            return
        if self._counts:
            self.figures.received[kind] += self._bytes[kind]
        self._inbox.append((self._now, proposer.peer, kind, lease))
        if not self._reading:
            self._reading = True
            self._in(0.0, self._pass)

    # The trainer

    def _iterate(self) -> None:
        """One iteration of the training loop."""
        if self._iteration >= self._next_request:
            granted = list(self._grant())
            if granted:
                self._next_request = self._iteration + self._pool.request_every
            if self._counts:
                self.figures.due += 1
                self.figures.waiting += not granted
                self.figures.granted += len(granted)
        self._iteration += 1
        self._in(self._pool.step_seconds, self._iterate)

    def _grant(self) -> Iterator[Lease]:
        for _ in range(self._pool.leases):
            lease = self._leases.grant(DIGEST, self._now)
            if lease is None:
                return
            yield lease
            self._count_sent("work", 1)
            if self._random.random() >= self._pool.loss:
                self._in(0.0, partial(self._take, lease.peer, lease.id))

    def _pass(self) -> None:
        """The trainer's thread reads, as `bus.router` does, and then pauses."""
        readies: dict[Peer, str | None] = {}
        read = min(FRAMES_PER_PASS, len(self._inbox))
        arrived = self._now
        for _ in range(read):
            arrived, peer, kind, lease = self._inbox.popleft()
            self._leases.heard(peer, self._now)
            if kind == "ready":
                readies[peer] = lease
            elif kind == "reject":
                self._leases.release(lease, peer)
            else:
                self._settle(lease, peer)
        for peer, lease in readies.items():
            self._leases.ready(peer, int(lease is None), [lease] if lease else [], self._now)
        self._count_sent("ack", len(readies))
        self._leases.expire(arrived if self._inbox else self._now)
        self._leases.take_ended()
        busy = read * self._pool.read_seconds
        if self._counts:
            self.figures.thread_seconds += busy
        self.figures.delay = self._now - arrived
        self._in(busy + min(PAUSE_FACTOR * busy, LONGEST_PAUSE_SECONDS) + self._sending, self._go_on)
        self._sending = 0.0

    def _go_on(self) -> None:
        """The next pass, now or when something arrives."""
        self._reading = bool(self._inbox)
        if self._reading:
            self._pass()
        else:
            self._leases.expire(self._now)

    def _settle(self, id_: str, peer: Peer) -> None:
        lease = self._leases.settle(id_, peer)
        if lease is None:
            return
        sent = self._pool.outcomes * len(self._leases.peers)
        self._sending += sent * self._pool.send_seconds
        if self._counts:
            self.figures.settled += 1
            self.figures.ages.append(self._now - (lease.expires - self._pool.lease_seconds))
            self._count_sent("outcomes", sent)
            self.figures.thread_seconds += sent * self._pool.send_seconds

    def _count_sent(self, kind: str, number: int) -> None:
        if self._counts:
            self.figures.sent[kind] += number * self._bytes[kind]


WORDS = "a customer message about"

DIGEST = Digest(
    run="demo-s1-0123456789abcdef", sequence=0, step=1000, budget=10_000, labels=["billing", "returns", "delivery"],
    task="Sort customer messages by the department that answers them.", num_tokens=8, num_candidates=12,
    trajectory=[Point(step=1, words=WORDS, cosine=0.9, train_loss=1.0, dev_loss=1.0, dev_accuracy=0.5)] * 10,
    substitutions=[Substitution(position=0, word="customer", replacements=["message"] * 5)] * 8,
    slope=None, best=[], outcomes=[CandidateOutcome(words=WORDS, outcome="outscored", score=1.0)] * 12,
)  # fmt: skip


def frame_bytes(lease_seconds: float) -> dict[str, int]:
    """The length of a typical frame of each kind."""
    limit, lease, model = BusSettings().max_frame_bytes, "0" * 32, "openai:gpt-4o-mini"
    usage = Usage(seconds=1.0, input_tokens=1000, output_tokens=100)
    outcomes = [CandidateOutcome(words=WORDS, outcome="dropped", score=1.0, gain=-0.1)] * 3
    frames = {
        "ready": encode(Ready(name="host-12345", model=model, credits=1, holding=[]), limit),
        "ack": encode(Ack(run=DIGEST.run), limit),
        "work": encode_work(lease, lease_seconds, encode_digest(DIGEST, limit)),
        "proposal": encode(Proposal(lease=lease, model=model, candidates=[WORDS] * 12, usage=usage), limit),
        "reject": encode(Reject(reason="failed", detail="timeout", lease=lease), limit),
        "outcomes": encode(Outcomes(run=DIGEST.run, lease=lease, step=1000, outcomes=outcomes), limit),
    }
    return {kind: len(frame) for kind, frame in frames.items()}
