"""The proposer's end of the bus: one DEALER for each trainer, used from one thread.

    end = ProposerEnd(endpoints, name="a", model="m", ready_seconds=2.0, max_frame_bytes=262_144)
    while running:
        for endpoint, message in end.receive(timeout_seconds=1.0):
            ...                                 # Work, Outcomes, Reject or Bye
        end.propose(endpoint, proposal)         # for each answer that is finished
        end.ready(free_slots, holding)          # costs nothing when nothing changed

Other threads may call `wake`, and nothing else.
"""

import logging
import socket as sockets
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

import zmq

from bus.codec import BadFrame, Malformed, TooLong, UnknownVersion, decode, encode
from bus.messages import Ack, Bye, Message, Proposal, Ready, Reject
from bus.sockets import QUEUE, SILENT_INTERVALS, Socket, host_of, open_socket, receive_frames, send
from shared.errors import UserError

log = logging.getLogger(__name__)

NEVER = float("-inf")


@dataclass
class _Line:
    """The way to one trainer. Times are seconds of the monotonic clock."""

    endpoint: str
    socket: Socket
    offer: bytes | None = None
    """The ready to repeat."""
    said: bytes | None = None
    """The ready that was last sent."""
    due: float = NEVER
    """When to repeat it."""
    heard: float = NEVER
    """When the trainer last said anything."""
    foreign: bool = False
    """It was already logged that the trainer speaks another version."""

    def unsaid(self, now: float) -> bool:
        """Whether the offer is new or due."""
        return self.offer is not None and (self.offer != self.said or now >= self.due)


class BusClient:
    """Talks to the trainers at `endpoints`, whether they are there or not; comes and goes as they do.

    Raises:
        UserError: an endpoint is no address.
    """

    def __init__(
        self, endpoints: list[str], *, name: str, model: str, ready_seconds: float, max_frame_bytes: int
    ) -> None:
        for endpoint in endpoints:
            if host_of(endpoint) is None and not endpoint.startswith("ipc://"):
                raise UserError(f"bus.connect: {endpoint} is no address; write tcp://HOST:PORT")
        self._name = name
        self._model = model
        self._ready_seconds = ready_seconds
        self._max_bytes = max_frame_bytes
        self.bad_frames: Counter[str] = Counter()
        """Frames that could not be read, by reason."""
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._sleeper, self._waker = sockets.socketpair()
        self._sleeper.setblocking(False)
        self._waker.setblocking(False)
        self._poller.register(self._sleeper, zmq.POLLIN)
        self._lines = {endpoint: self._connect(endpoint) for endpoint in endpoints}

    def receive(self, timeout_seconds: float) -> list[tuple[str, Message]]:
        """What trainers said, each with its endpoint: `Work`, `Outcomes`, `Reject` or `Bye`.

        Waits up to `timeout_seconds` for the first message or a `wake`, and repeats the last `ready` meanwhile.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._repeat_ready()
            woken = self._woken()
            messages = [(endpoint, message) for endpoint, line in self._lines.items() for message in self._read(line)]
            now = time.monotonic()
            if messages or woken or now >= deadline:
                return messages
            self._wait(deadline, now)

    def wake(self) -> None:
        """Let `receive` return now. Any thread may call this, also after `close`."""
        with suppress(OSError):  # a full buffer wakes as well; a closed end has nobody to wake
            self._waker.send(b"\0")

    def ready(self, credits: int, holding: dict[str, list[str]], closed: Collection[str] = ()) -> None:
        """Say how many leases can be taken beyond those held, and which are `holding`, by endpoint.

        Endpoints in `closed` are offered none.

        Sends to every trainer at once where that is news; `receive` repeats it every `ready_seconds`.
        """
        for endpoint, line in self._lines.items():
            offer = Ready(
                name=self._name,
                model=self._model,
                credits=0 if endpoint in closed else credits,
                holding=sorted(holding.get(endpoint, [])),
            )
            line.offer = encode(offer, self._max_bytes)
        self._repeat_ready()

    def propose(self, endpoint: str, proposal: Proposal) -> bool:
        """Answer a lease; False if the trainer is gone. An answer too long for a frame becomes a reject(failed)."""
        try:
            return self._send(endpoint, proposal)
        except TooLong as error:
            return self.reject(endpoint, Reject(reason="failed", detail=str(error), lease=proposal.lease))

    def reject(self, endpoint: str, reject: Reject) -> bool:
        """Give a lease back with reason busy or failed; False if the trainer is gone."""
        return self._send(endpoint, reject)

    @property
    def connected(self) -> set[str]:
        """Endpoints of the trainers that were heard within the last few ready intervals and have not left."""
        since = time.monotonic() - SILENT_INTERVALS * self._ready_seconds
        return {endpoint for endpoint, line in self._lines.items() if line.heard > since}

    def close(self) -> None:
        """Say bye to every trainer and leave, within half a second."""
        if self._context.closed:
            return
        for endpoint, line in self._lines.items():
            self._send(endpoint, Bye())
            line.socket.close()
        self._context.term()
        self._waker.close()
        self._sleeper.close()

    def _connect(self, endpoint: str) -> _Line:
        socket = open_socket(self._context, zmq.DEALER, endpoint, self._max_bytes)
        socket.setsockopt(zmq.IMMEDIATE, 1)  # else messages queue up for a trainer that is not there
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise UserError(f"bus.connect: {endpoint} cannot be used ({error}); write tcp://HOST:PORT") from None
        self._poller.register(socket, zmq.POLLIN)
        return _Line(endpoint, socket)

    def _wait(self, deadline: float, now: float) -> None:
        """Sleep until something arrives, a ready is due or can be sent after all, or the deadline."""
        wakeup = deadline
        for line in self._lines.values():
            unsaid = line.unsaid(now)
            self._poller.modify(line.socket, zmq.POLLIN | zmq.POLLOUT if unsaid else zmq.POLLIN)
            if line.offer is not None and not unsaid:
                wakeup = min(wakeup, line.due)
        self._poller.poll(int(max(0.0, wakeup - now) * 1000) + 1)

    def _woken(self) -> bool:
        try:
            return bool(self._sleeper.recv(4096))
        except BlockingIOError:
            return False

    def _repeat_ready(self) -> None:
        now = time.monotonic()
        for line in self._lines.values():
            if line.offer is not None and line.unsaid(now) and send(line.socket, [line.offer]):
                line.said = line.offer
                line.due = now + self._ready_seconds

    def _read(self, line: _Line) -> list[Message]:
        """Everything that arrived, less what this end deals with itself."""
        messages: list[Message] = []
        for _ in range(QUEUE):
            try:
                frames, exact = receive_frames(line.socket, keep=1)
            except zmq.Again:
                break
            message = self._decode(line, frames[0], exact)
            if message is None:
                continue
            line.heard = NEVER if isinstance(message, Bye) else time.monotonic()
            if not isinstance(message, Ack):
                messages.append(message)
        return messages

    def _decode(self, line: _Line, frame: bytes, exact: bool) -> Message | None:
        try:
            if not exact:
                raise Malformed("a message is one frame")
            return decode(frame, self._max_bytes)
        except BadFrame as error:
            self.bad_frames[error.reason] += 1
            if isinstance(error, UnknownVersion) and not line.foreign:
                line.foreign = True
                log.warning("the trainer at %s speaks another version of the protocol", line.endpoint)
            if error.answerable:
                send(line.socket, [encode(error.answer(), self._max_bytes)])
            return None

    def _send(self, endpoint: str, message: Message) -> bool:
        return send(self._lines[endpoint].socket, [encode(message, self._max_bytes)])
