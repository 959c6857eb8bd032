"""The thread that owns the trainer's ROUTER and the leases. The training loop only leaves calls and takes events.

Leases and the liveness of proposers therefore do not depend on how long a step, an evaluation or a wait takes. The
thread never uses more than a small share of a core, so that a flood of messages cannot slow training down: what is not
read waits in the queues of its sender.
"""

import logging
import socket as sockets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from math import inf
from typing import Any, TypeVar

import zmq

from bus.admission import Admission
from bus.channel import Answer, Counts, Event, LeaseEnded
from bus.codec import BadFrame, Malformed, decode, encode, encode_work
from bus.leases import Ended, Lease, Leases, Peer
from bus.messages import Ack, Bye, Digest, Message, Proposal, Ready, Reject
from bus.sockets import SILENT_INTERVALS, Socket, send
from shared.settings import BusSettings

log = logging.getLogger(__name__)

FRAMES_PER_PASS = 256
"""Frames read before calls of the training loop are looked at again."""

SKIPPED_PER_PASS = 1024
"""Further frames dropped in a pass, of a message that has too many."""

PAUSE_FACTOR = 30.0
"""After a pass, nothing is read for this many times the processor time that the pass took."""

LONGEST_PAUSE_SECONDS = 0.5

LONGEST_SLEEP_SECONDS = 0.5
"""Longest wait while there are peers, so that a suspension of the process is noticed."""

SUSPENDED_SECONDS = 0.5
"""A pass later than this was held up by a suspension or the interpreter's lock; the leases' clock stops."""

FAREWELL_SECONDS = 0.1
"""Time for proposers to read the bye: a DEALER with IMMEDIATE drops unread messages when the connection ends."""

Result = TypeVar("Result")


class Router:
    """Serves proposers at `socket` until `leave` is called. Only `run` touches socket and leases.

    Other threads may use `call`, `take`, and the attributes without an underscore.
    """

    def __init__(self, socket: Socket, settings: BusSettings, run: str, admission: Admission | None) -> None:
        self.events: list[Event] = []
        """Events that the training loop has not taken; `take` takes them."""
        self.free = False
        """Whether a proposer can take a lease."""
        self.news: deque[None] = deque(maxlen=1)
        """Not empty if an event was added or a proposer became free since the last `take`."""
        self.changed = threading.Event()
        """Set with `news`, for threads that wait; the waiting thread clears it."""
        self.ended = False
        """Whether the thread has ended."""
        self._socket = socket
        self._admission = admission  # None without CURVE
        self._run = run
        self._lease_seconds = settings.lease_seconds
        self._max_bytes = settings.max_frame_bytes
        self._ack = encode(Ack(run=run), self._max_bytes)
        self._leases = Leases(
            lease_seconds=settings.lease_seconds, forget_seconds=SILENT_INTERVALS * settings.ready_seconds
        )
        self._rejected: Counter[str] = Counter()
        self.counts = self._count()
        """State of the bus after the last pass."""
        self._handover = threading.Lock()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._sleeper, self._waker = sockets.socketpair()
        self._sleeper.setblocking(False)
        self._waker.setblocking(False)
        self._poller, self._calls_poller = zmq.Poller(), zmq.Poller()
        for poller in (self._poller, self._calls_poller):
            poller.register(self._sleeper, zmq.POLLIN)
            if admission:
                poller.register(admission.socket, zmq.POLLIN)
        self._poller.register(socket, zmq.POLLIN)
        self._frames: list[zmq.Frame] = []  # of a message that is read in part, without those beyond the third
        self._answers: dict[str, Proposal] = {}  # by lease, until its end is published
        self._known: set[str] = set()  # live leases that the training loop was given
        self._leaving = False
        self._lost = 0.0
        """Seconds in which the thread could not look."""
        self._attended = time.monotonic()
        self._resume = 0.0
        """When reading resumes."""
        self._all_read = self._clock()
        """Everything that arrived before this time has been read."""
        self._turn_began = self._all_read
        self._turn: set[Peer] = set()
        """Peers that were read from in this turn of the ROUTER, which takes a message from each in turn."""

    def call(self, function: Callable[[], Result]) -> "Future[Result]":
        """Run `function` in the thread soon. The future is cancelled if the thread has ended."""
        future: Future[Result] = Future()
        self._calls.append((function, future))
        with suppress(OSError):  # full: it will wake anyway; closed: the thread has ended
            self._waker.send(b"\0")
        if self.ended:
            self._cancel_calls()
        return future

    def take(self) -> list[Event]:
        """All events at once, however many there are."""
        self.news.clear()  # before the events are taken, so that later ones set it again
        with self._handover:
            events, self.events = self.events, []
        return events

    def run(self) -> None:
        """Serve until `leave`. After an unexpected error, training continues without proposers."""
        try:
            while not self._leaving:
                self._pass()
        except Exception:
            log.exception("the bus failed; training goes on without proposers")
        finally:
            self._close()

    # Called through `call`

    def lease(self, digest: Digest, frame: bytes, proposals: int) -> list[Lease]:
        """Grant and send up to `proposals` leases of `digest`, which is encoded in `frame`."""
        leases: list[Lease] = []
        while len(leases) < proposals and (lease := self._leases.grant(digest, self._clock())):
            if self._send(lease.peer, encode_work(lease.id, self._lease_seconds, frame)):
                self._known.add(lease.id)
                leases.append(lease)
        return leases

    def send_all(self, frame: bytes) -> None:
        """Send a message to every proposer."""
        for peer in list(self._leases.peers):
            self._send(peer, frame)

    def leave(self) -> None:
        """Say bye to every proposer and end the thread."""
        self._leaving = True
        if self._leases.peers:
            self.send_all(encode(Bye(run=self._run), self._max_bytes))
            time.sleep(FAREWELL_SECONDS)

    # One pass

    def _pass(self) -> None:
        self._sleep()
        while self._calls and not self._leaving:
            self._perform(*self._calls.popleft())
        if self._leaving:
            return
        if self._admission and (refused := self._admission.answer()):
            self._rejected["key"] += refused
        if time.monotonic() >= self._resume:
            began = time.thread_time()
            self._receive()
            busy = time.thread_time() - began
            self._resume = time.monotonic() + min(PAUSE_FACTOR * busy, LONGEST_PAUSE_SECONDS)
        self._attend(0.0)
        self._leases.expire(self._all_read)
        self._publish()

    def _sleep(self) -> None:
        """Wait for a call, a message unless reading pauses, or the next expiry."""
        now = time.monotonic()
        pause = self._resume - now
        expiry = self._leases.next_expiry
        seconds = None if expiry is None else min(LONGEST_SLEEP_SECONDS, max(0.0, expiry - self._clock()))
        poller = self._poller
        if pause > 0:
            seconds, poller = pause, self._calls_poller
        ready = poller.poll(None if seconds is None else int(seconds * 1000) + 1)
        if any(source == self._sleeper.fileno() for source, _ in ready):
            with suppress(BlockingIOError):
                self._sleeper.recv(4096)
        self._attend(seconds if seconds is not None else inf)

    def _attend(self, asleep: float) -> None:
        """Stop the clock for the time since the last call, less the seconds that the thread meant to be `asleep`."""
        now = time.monotonic()
        late = now - self._attended - asleep
        if late > SUSPENDED_SECONDS:
            self._lost += late
            self._all_read = min(self._all_read, self._clock())
            self._turn_began = min(self._turn_began, self._clock())
        self._attended = now

    def _clock(self) -> float:
        """Seconds of the monotonic clock, less those in which the thread could not look."""
        return time.monotonic() - self._lost

    def _perform(self, function: Callable[[], Any], future: "Future[Any]") -> None:
        try:
            result = function()
        except Exception:
            future.cancel()
            raise
        self._publish()  # first, so that the caller sees who is free now
        future.set_result(result)

    def _publish(self) -> None:
        """Let the training loop see what changed."""
        events = [event for ended in self._leases.take_ended() if (event := self._event(ended))]
        with self._handover:
            self.events += events
        free = self._leases.free_credits > 0
        news = events or (free and not self.free)
        self.free = free
        self.counts = self._count()
        if news:
            self.news.append(None)
            self.changed.set()

    def _event(self, ended: Ended) -> Event | None:
        """The event for the end of a lease; None if the lease was never sent."""
        lease, proposal = ended.lease, self._answers.pop(ended.lease.id, None)
        if lease.id not in self._known:
            return None
        self._known.remove(lease.id)
        if ended.how == "settled":
            assert proposal is not None
            return Answer(proposal, lease.digest)
        return LeaseEnded(lease.id, lease.digest, ended.how)

    def _count(self) -> Counts:
        leases = self._leases
        return Counts(len(leases.peers), len(leases.live), dict(leases.ended), dict(self._rejected))

    # Messages

    def _receive(self) -> None:
        """Read what has arrived. Only the last ready of each peer counts, after everything else."""
        readies: dict[Peer, Ready] = {}
        for _ in range(FRAMES_PER_PASS):
            try:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self._finish_turn()
                break
            if len(self._frames) < 3:  # MAXMSGSIZE limits a frame, not their number: the rest is not kept
                self._frames.append(frame)
            elif frame.more:
                frame = self._skip()
                if frame.more:
                    break
            if frame.more:
                continue
            peer, frames = self._frames[0].bytes, self._frames[1:]
            self._frames = []
            if self._admission and not self._admission.admits(frame):
                self._reject(peer, Reject(reason="key", detail="this key is admitted no longer"))
                self._leases.gone(peer)
                continue
            self._note(peer)
            try:
                if len(frames) != 1:
                    raise Malformed("a message is one frame")
                message = decode(frames[0].bytes, self._max_bytes)
            except BadFrame as error:
                self._rejected[error.reason] += 1
                if error.answerable:
                    self._send_message(peer, error.answer())
            else:
                self._take(peer, message, readies)
        now = self._clock()
        for peer, ready in readies.items():
            self._leases.ready(peer, ready.credits, ready.holding, now)
            self._send(peer, self._ack)

    def _skip(self) -> zmq.Frame:
        """Drop frames of a message that has too many, in a tight loop: there may be millions. Returns the last one."""
        receive = self._socket.recv
        for _ in range(SKIPPED_PER_PASS):
            frame = receive(zmq.NOBLOCK, copy=False)
            if not frame.more:
                break
        return frame

    def _note(self, peer: Peer) -> None:
        """A message of `peer` was read.

        The ROUTER takes one message from each connection that has any, in turn. So when a peer comes up a second time,
        whoever had a message waiting when the turn began has been heard: nobody is taken for gone unread, and a flood
        cannot keep the clock of the leases from advancing.
        """
        self._leases.heard(peer, self._clock())
        if peer in self._turn:
            self._finish_turn(self._turn_began)
        self._turn.add(peer)

    def _finish_turn(self, all_read: float | None = None) -> None:
        self._turn.clear()
        self._turn_began = self._clock()
        self._all_read = self._turn_began if all_read is None else all_read

    def _take(self, peer: Peer, message: Message, readies: dict[Peer, Ready]) -> None:
        match message:
            case Ready():
                readies[peer] = message
            case Proposal():
                if self._leases.settle(message.lease, peer):
                    self._answers[message.lease] = message
                else:
                    self._reject(peer, Reject(reason="lease", lease=message.lease))
            case Reject():
                if message.lease is not None:
                    self._leases.release(message.lease, peer)
            case Bye():
                readies.pop(peer, None)
                self._leases.gone(peer)
            case _:
                self._reject(peer, Reject(reason="malformed", detail=f"a trainer is not sent {message.kind}"))

    def _reject(self, peer: Peer, reject: Reject) -> None:
        self._rejected[reject.reason] += 1
        self._send_message(peer, reject)

    def _send_message(self, peer: Peer, message: Message) -> None:
        self._send(peer, encode(message, self._max_bytes))

    def _send(self, peer: Peer, frame: bytes) -> bool:
        """Send without waiting. A peer that cannot be reached, or reads nothing, is forgotten until its next ready."""
        sent = send(self._socket, [peer, frame])
        if not sent:
            self._leases.gone(peer)
        return sent

    def _close(self) -> None:
        for peer in list(self._leases.peers):
            self._leases.gone(peer)
        self._publish()
        self._socket.close()
        if self._admission:
            self._admission.close()
        self.ended = True
        self._cancel_calls()
        self._waker.close()
        self._sleeper.close()

    def _cancel_calls(self) -> None:
        with suppress(IndexError):  # both threads may pop
            while True:
                self._calls.popleft()[1].cancel()
