"""The proposer's end of the bus: one DEALER for each trainer, used from one thread.

    end = BusClient(settings.bus, name="a", model="m")
    while running:
        for endpoint, message in end.receive(timeout_seconds=1.0):
            ...                                 # Work, Outcomes, Reject or Bye
        end.propose(endpoint, proposal)         # for each answer that is finished
        end.ready(free_slots, holding)          # cheap when nothing changed

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
from zmq.utils.monitor import recv_monitor_message

from bus.codec import BadFrame, Malformed, TooLong, UnknownVersion, decode, encode
from bus.keys import read_public, read_secret
from bus.messages import Ack, Bye, Message, Proposal, Ready, Reject
from bus.sockets import QUEUE, SILENT_INTERVALS, Socket, host_of, open_socket, receive_frame, send
from shared.errors import UserError
from shared.settings import BusSettings

log = logging.getLogger(__name__)

NEVER = float("-inf")


RETRY_SECONDS = 5.0
"""A trainer that refused the connection is tried again after this."""

REFUSALS = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


@dataclass
class _Line:
    """The connection to one trainer. Times are seconds of the monotonic clock."""

    endpoint: str
    trainer_key: bytes | None
    """The trainer's public key; None without CURVE."""
    socket: Socket
    monitor: Socket
    """Tells when the trainer refuses the connection."""
    offer: bytes | None = None
    """The ready to repeat."""
    sent: bytes | None = None
    """The ready that was last sent."""
    due: float = NEVER
    """When to repeat it."""
    heard: float = NEVER
    """When the trainer last said anything."""
    foreign: bool = False
    """It was logged that the trainer speaks another version."""
    refused: str = ""
    """The last refusal that was logged."""
    retry: float | None = None
    """When to connect anew, after a refusal."""

    def unsent(self, now: float) -> bool:
        """Whether the offer is new or due."""
        return self.offer is not None and (self.offer != self.sent or now >= self.due)


class BusClient:
    """Talks to the trainers at `settings.connect`, whether they run or not.

    Args:
        settings: addresses, keys, limits and times.
        name: for people; never an identity.
        model: the LLM.

    Raises:
        UserError: an endpoint is not an address, or a key cannot be read.
    """

    def __init__(self, settings: BusSettings, *, name: str, model: str) -> None:
        for endpoint in settings.connect:
            if host_of(endpoint) is None and not endpoint.startswith("ipc://"):
                raise UserError(f"bus.connect: {endpoint} is not an address; write tcp://HOST:PORT")
        self._name = name
        self._model = model
        self._ready_seconds = settings.ready_seconds
        self._max_bytes = settings.max_frame_bytes
        self._keys = read_secret(settings.secret_key, "bus.secret_key") if settings.secret_key else None
        trainer_keys = _trainer_keys(settings)
        self.bad_frames: Counter[str] = Counter()
        """Frames that could not be read, by reason."""
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._sleeper, self._waker = sockets.socketpair()
        self._sleeper.setblocking(False)
        self._waker.setblocking(False)
        self._poller.register(self._sleeper, zmq.POLLIN)
        self._lines: dict[str, _Line] = {}
        for endpoint, key in zip(settings.connect, trainer_keys, strict=True):
            self._lines[endpoint] = _Line(endpoint, key, *self._connect(endpoint, key))

    def receive(self, timeout_seconds: float) -> list[tuple[str, Message]]:
        """What trainers sent, each with its endpoint: `Work`, `Outcomes`, `Reject` or `Bye`.

        Waits up to `timeout_seconds` for the first message or a `wake`, and repeats the last `ready` meanwhile.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            for line in self._lines.values():
                self._watch(line)
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

        Sends at once to every trainer for which it changed; `receive` repeats it every `ready_seconds`.
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
        """Answer a lease; False if the trainer is gone. An answer too long for a frame releases the lease."""
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
            self._disconnect(line)
        self._context.term()
        self._waker.close()
        self._sleeper.close()

    def _connect(self, endpoint: str, trainer_key: bytes | None) -> tuple[Socket, Socket]:
        socket = open_socket(self._context, zmq.DEALER, endpoint, self._max_bytes)
        socket.setsockopt(zmq.IMMEDIATE, 1)  # else messages queue up for a trainer that is not there
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        if self._keys and trainer_key:
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._keys[0])
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys[1])
            socket.setsockopt(zmq.CURVE_SERVERKEY, trainer_key)
        monitor = socket.get_monitor_socket(REFUSALS)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise UserError(f"bus.connect: {endpoint} cannot be used ({error}); write tcp://HOST:PORT") from None
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(monitor, zmq.POLLIN)
        return socket, monitor

    def _watch(self, line: _Line) -> None:
        """Log a refusal, and connect anew after a while: libzmq gives a refused connection up for good."""
        while line.monitor.poll(0):
            event = recv_monitor_message(line.monitor)["event"]
            self._refuse(line, _refusal(line, self._keys, self._name, event))
        if line.retry is not None and time.monotonic() >= line.retry:
            self._disconnect(line)
            line.socket, line.monitor = self._connect(line.endpoint, line.trainer_key)
            line.sent, line.retry = None, None

    def _refuse(self, line: _Line, why: str) -> None:
        if line.retry is None:
            line.retry = time.monotonic() + RETRY_SECONDS
        if line.refused != why:
            line.refused = why
            log.warning("%s; trying again every %g s", why, RETRY_SECONDS)

    def _disconnect(self, line: _Line) -> None:
        self._poller.unregister(line.socket)
        self._poller.unregister(line.monitor)
        line.socket.disable_monitor()
        line.monitor.close(linger=0)
        line.socket.close()

    def _wait(self, deadline: float, now: float) -> None:
        """Sleep until something arrives, a ready is due or can be sent after all, or the deadline."""
        wakeup = deadline
        for line in self._lines.values():
            unsent = line.unsent(now)
            self._poller.modify(line.socket, zmq.POLLIN | zmq.POLLOUT if unsent else zmq.POLLIN)
            if line.offer is not None and not unsent:
                wakeup = min(wakeup, line.due)
            if line.retry is not None:
                wakeup = min(wakeup, line.retry)
        self._poller.poll(int(max(0.0, wakeup - now) * 1000) + 1)

    def _woken(self) -> bool:
        try:
            return bool(self._sleeper.recv(4096))
        except BlockingIOError:
            return False

    def _repeat_ready(self) -> None:
        now = time.monotonic()
        for line in self._lines.values():
            if line.offer is not None and line.unsent(now) and send(line.socket, [line.offer]):
                line.sent = line.offer
                line.due = now + self._ready_seconds

    def _read(self, line: _Line) -> list[Message]:
        """Everything that arrived, except what is handled here."""
        messages: list[Message] = []
        for _ in range(QUEUE):
            try:
                frame = receive_frame(line.socket)
            except zmq.Again:
                break
            message = self._decode(line, frame)
            if message is None:
                continue
            if isinstance(message, Reject) and message.reason == "key":
                line.heard = NEVER
                self._refuse(line, _refusal(line, self._keys, self._name, zmq.EVENT_HANDSHAKE_FAILED_AUTH))
                continue
            line.heard = NEVER if isinstance(message, Bye) else time.monotonic()
            line.refused = ""
            if not isinstance(message, Ack):
                messages.append(message)
        return messages

    def _decode(self, line: _Line, frame: bytes | None) -> Message | None:
        try:
            if frame is None:
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


def _trainer_keys(settings: BusSettings) -> list[bytes] | list[None]:
    """The trainers' public keys, one for each endpoint; None without CURVE."""
    if not settings.secret_key and not settings.trainer_keys:
        return [None] * len(settings.connect)
    if not settings.secret_key:
        raise UserError("bus.trainer_keys needs bus.secret_key too: `python -m bus.keys new proposer NAME` makes one")
    if len(settings.trainer_keys) not in (1, len(settings.connect)):
        raise UserError(
            f"bus.trainer_keys has {len(settings.trainer_keys)} keys for {len(settings.connect)} trainers in "
            "bus.connect; give one for all or one for each, as `python -m bus.keys new trainer NAME` prints it"
        )
    keys = [read_public(key, "bus.trainer_keys") for key in settings.trainer_keys]
    return keys * len(settings.connect) if len(keys) == 1 else keys


def _refusal(line: _Line, keys: tuple[bytes, bytes] | None, name: str, event: int) -> str:
    """What a refused handshake means, and what to do."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and keys:
        return (
            f"the trainer at {line.endpoint} does not admit this proposer; on its host run: "
            f"python -m bus.keys allow {name} '{keys[0].decode()}'"
        )
    if keys:
        return (
            f"no encrypted connection to {line.endpoint}: compare bus.trainer_keys with the trainer's public key, and "
            "see that the trainer has bus.secret_key"
        )
    return f"the trainer at {line.endpoint} demands a key; set bus.secret_key and bus.trainer_keys (docs/security.md)"
