"""The trainer's end of the bus: a ROUTER that the training loop looks at, without a thread."""

import ipaddress
import select
import time
from collections import Counter

import zmq

from bus.channel import Answer, Counts, Event, LeaseEnded
from bus.codec import BadFrame, Malformed, decode, encode
from bus.leases import Lease, Leases, Peer
from bus.messages import Bye, Digest, Heard, Message, Outcome, Proposal, Ready, Reject, Work
from bus.sockets import SILENT_INTERVALS, Socket, host_of, open_socket, receive_frames, send
from shared.errors import UserError
from shared.settings import BusSettings

MESSAGES_PER_POLL = 32
"""More than that wait for the next step, so that a flood slows training but cannot stop it."""

LOOK_SECONDS = 0.1
"""Arrivals, leases and peers are looked at this often. LLMs take seconds, and after a gradient step, which leaves the
processor's caches cold, the system call for it costs more than all else that the loop does with the bus."""

FAREWELL_SECONDS = 0.1
"""A DEALER with IMMEDIATE drops what it has not read yet when the connection ends: time to read the bye."""


class BusServer:
    """Listens for proposers at `settings.bind`. Nothing that comes over the wire raises.

    Raises:
        UserError: the address is in use, is none, or is open to other hosts.
    """

    def __init__(self, settings: BusSettings, run: str) -> None:
        self._run = run
        self._lease_seconds = settings.lease_seconds
        self._max_bytes = settings.max_frame_bytes
        self._heard = encode(Heard(run=run), self._max_bytes)
        self._leases = Leases(
            lease_seconds=settings.lease_seconds, forget_seconds=SILENT_INTERVALS * settings.ready_seconds
        )
        self._look_due = 0.0
        self._rejected: Counter[str] = Counter()
        self._context = zmq.Context()
        self._socket = _bind(self._context, settings)
        self._arrivals = select.poll()  # with cold caches a fraction of the time that zmq.EVENTS takes
        self._arrivals.register(self._socket.getsockopt(zmq.FD), select.POLLIN)  # type: ignore[arg-type]
        self._unread = True
        """Whether something may be there that the descriptor told of before: any use of the socket takes that back."""
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        """Where it listens; tells the port where `settings.bind` left it open."""

    def poll(self) -> list[Event]:
        """See `bus.channel.Channel`."""
        now = time.monotonic()
        answers: list[Event] = []
        look = now >= self._look_due
        if self._unread or (look and self._arrivals.poll(0)):
            self._receive(answers, now)
        if look:  # after receiving: what has arrived must count first
            self._look_due = now + LOOK_SECONDS
            self._leases.expire(now)
        for ended in self._leases.take_ended():
            if ended.how != "settled":
                answers.append(LeaseEnded(ended.lease.id, ended.lease.digest, ended.how))
        return answers

    def can_lease(self) -> bool:
        """See `bus.channel.Channel`."""
        return self._leases.free_credits > 0

    def lease(self, digest: Digest, proposals: int) -> list[Lease]:
        """See `bus.channel.Channel`.

        Raises:
            TooLong: the digest does not fit into a frame.
        """
        leases: list[Lease] = []
        while len(leases) < proposals and (lease := self._leases.grant(digest, time.monotonic())):
            if self._send(lease.peer, Work(lease=lease.id, seconds=self._lease_seconds, digest=digest)):
                leases.append(lease)
        return leases

    def tell(self, outcome: Outcome) -> None:
        """See `bus.channel.Channel`."""
        self._send_all(outcome)

    def wait(self, seconds: float) -> bool:
        """See `bus.channel.Channel`."""
        self._unread = True
        self._socket.poll(int(seconds * 1000))
        return True

    def counts(self) -> Counts:
        """See `bus.channel.Channel`."""
        leases = self._leases
        return Counts(len(leases.peers), len(leases.live), dict(leases.ended), dict(self._rejected))

    def close(self) -> None:
        """Say bye to every proposer and leave, within half a second."""
        if self._socket.closed:
            return
        if self._leases.peers:
            self._send_all(Bye(run=self._run))
            time.sleep(FAREWELL_SECONDS)
        self._socket.close()
        self._context.term()

    def _receive(self, answers: list[Event], now: float) -> None:
        self._unread = True
        for _ in range(MESSAGES_PER_POLL):
            try:
                (peer, *frames), exact = receive_frames(self._socket, keep=2)
            except zmq.Again:
                self._unread = False
                return
            try:
                if not exact:
                    raise Malformed("a message is one frame")
                message = decode(frames[0], self._max_bytes)
            except BadFrame as error:
                self._rejected[error.reason] += 1
                if error.answerable:
                    self._send(peer, error.answer())
            else:
                self._take(peer, message, answers, now)

    def _take(self, peer: Peer, message: Message, answers: list[Event], now: float) -> None:
        match message:
            case Ready():
                self._leases.ready(peer, message.credits, message.holding, now)
                self._send_frame(peer, self._heard)
            case Proposal():
                if lease := self._leases.settle(message.lease, peer):
                    answers.append(Answer(message, lease.digest))
                else:
                    self._reject(peer, Reject(reason="lease", lease=message.lease))
            case Reject():
                if message.lease is not None:
                    self._leases.release(message.lease, peer)
            case Bye():
                self._leases.gone(peer)
            case _:
                self._reject(peer, Reject(reason="malformed", detail=f"a trainer is not sent {message.kind}"))

    def _reject(self, peer: Peer, reject: Reject) -> None:
        self._rejected[reject.reason] += 1
        self._send(peer, reject)

    def _send(self, peer: Peer, message: Message) -> bool:
        return self._send_frame(peer, encode(message, self._max_bytes))

    def _send_all(self, message: Message) -> None:
        frame = encode(message, self._max_bytes)
        for peer in self._leases.peers:
            self._send_frame(peer, frame)

    def _send_frame(self, peer: Peer, frame: bytes) -> bool:
        """Send now; who cannot be reached, or reads nothing, is forgotten until it says ready again."""
        self._unread = True
        sent = send(self._socket, [peer, frame])
        if not sent:
            self._leases.gone(peer)
        return sent


def _bind(context: zmq.Context[Socket], settings: BusSettings) -> Socket:
    endpoint = settings.bind
    host = host_of(endpoint)
    if host is None and not endpoint.startswith("ipc://"):
        raise UserError(f"bus.bind: {endpoint} is no address; write tcp://127.0.0.1:PORT")
    if host is not None and not _is_loopback(host):
        raise UserError(
            f"bus.bind: {endpoint} is open to other hosts, which needs CURVE keys, and this version has none;"
            " use tcp://127.0.0.1:PORT, and an SSH tunnel to reach it from another host"
        )
    socket = open_socket(context, zmq.ROUTER, endpoint, settings.max_frame_bytes)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else what is sent to a proposer that left is lost without a word
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        context.destroy(linger=0)
        if error.errno == zmq.EADDRINUSE:
            hint = "is in use, perhaps by another trainer; stop that or choose another port"
        else:
            hint = f"cannot be listened at ({error}); write tcp://127.0.0.1:PORT"
        raise UserError(f"bus.bind: {endpoint} {hint}") from None
    return socket


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
