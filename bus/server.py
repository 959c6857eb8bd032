"""The trainer's end of the bus: binds a ROUTER, which a thread of its own serves."""

import ipaddress
import logging
import os
import socket as sockets
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import zmq

from bus.admission import Admission, secure_server
from bus.channel import Counts, Event
from bus.codec import TooLong, encode, encode_digest
from bus.keys import SET_UP, AllowList, read_secret
from bus.leases import Lease
from bus.messages import Digest, Outcomes
from bus.router import Router
from bus.sockets import Socket, host_of, open_socket
from shared.errors import UserError
from shared.settings import BusSettings

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0
"""Longest wait for the thread at the end."""


class BusServer:
    """A `bus.channel.Channel` that listens for proposers at `settings.bind`. Nothing that arrives ends training.

    Args:
        settings: address, limits and times.
        run: unique for each start of a trainer; proposers keep a memory for each.

    Raises:
        UserError: the address is in use, is not one, or is open to other hosts.
    """

    def __init__(self, settings: BusSettings, run: str) -> None:
        self._max_bytes = settings.max_frame_bytes
        self._context = zmq.Context()
        try:
            admission = _admission(self._context, settings)
            socket = _bind(self._context, settings)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        """Where it listens; names the port where `settings.bind` leaves it open."""
        self._router = Router(socket, settings, run, admission)
        self.news = self._router.news
        """See `bus.channel.Channel`."""
        self._thread = threading.Thread(target=self._router.run, name="bus", daemon=True)
        self._thread.start()

    def poll(self) -> list[Event]:
        """See `bus.channel.Channel`."""
        return self._router.take()

    def can_lease(self) -> bool:
        """See `bus.channel.Channel`."""
        return self._router.free

    def lease(self, digest: Digest, proposals: int) -> list[Lease]:
        """See `bus.channel.Channel`."""
        frame = encode_digest(digest, self._max_bytes)
        try:
            return self._router.call(partial(self._router.lease, digest, frame, proposals)).result()
        except CancelledError:
            return []

    def tell(self, outcome: Outcomes) -> None:
        """See `bus.channel.Channel`."""
        try:
            frame = encode(outcome, self._max_bytes)
        except TooLong as error:
            log.warning("proposers do not hear of %d candidates: %s", len(outcome.outcomes), error)
        else:
            self._router.call(partial(self._router.send_all, frame))

    def wait(self, seconds: float) -> bool:
        """See `bus.channel.Channel`."""
        if not self._router.events:
            self._router.changed.wait(seconds)
        self._router.changed.clear()  # what was added before this is found by poll
        return bool(self._router.events) or not self._router.ended

    def counts(self) -> Counts:
        """See `bus.channel.Channel`."""
        return self._router.counts

    def close(self) -> None:
        """Say bye to every proposer and leave, within half a second."""
        if self._context.closed:
            return
        self._router.call(self._router.leave)
        self._thread.join(CLOSE_SECONDS)
        self._context.term()


def _admission(context: zmq.Context[Socket], settings: BusSettings) -> Admission | None:
    """The handler that admits the allowed keys; None without CURVE."""
    if settings.secret_key:
        return Admission(context, AllowList(settings.allowed_keys))
    if settings.allowed_keys != BusSettings.model_fields["allowed_keys"].default:
        raise UserError("bus.allowed_keys needs bus.secret_key too: `python -m bus.keys new trainer NAME` makes one")
    return None


def _bind(context: zmq.Context[Socket], settings: BusSettings) -> Socket:
    endpoint = settings.bind
    host = host_of(endpoint)
    if host is None and not endpoint.startswith("ipc://"):
        raise UserError(f"bus.bind: {endpoint} is not an address; write tcp://127.0.0.1:PORT")
    if host is not None and not _is_loopback(host) and not settings.secret_key:
        raise UserError(
            f"bus.bind: {endpoint} is open to other hosts, which needs CURVE keys: {SET_UP}; then set bus.secret_key "
            "and bus.allowed_keys. Or use tcp://127.0.0.1:PORT, and an SSH tunnel from another host"
        )
    if host is None:
        _check_path(endpoint, has_keys=settings.secret_key is not None)
    socket = open_socket(context, zmq.ROUTER, endpoint, settings.max_frame_bytes)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else what is sent to a proposer that left is lost without a word
    if settings.secret_key:
        secure_server(socket, read_secret(settings.secret_key, "bus.secret_key")[1])
    try:
        with _private_files():
            socket.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            hint = "is in use, perhaps by another trainer; stop that or choose another port"
        else:
            hint = f"cannot be listened at ({error}); write tcp://127.0.0.1:PORT"
        raise UserError(f"bus.bind: {endpoint} {hint}") from None
    return socket


def _check_path(endpoint: str, has_keys: bool) -> None:
    """Refuse an ipc:// path that is in use: libzmq would remove the file or the other trainer's socket."""
    path = endpoint.removeprefix("ipc://")
    if path.startswith("@"):
        if not has_keys:
            raise UserError(
                f"bus.bind: {endpoint} is open to every user of this machine; write ipc://PATH, or set keys"
            )
        return
    try:
        is_socket = stat.S_ISSOCK(Path(path).lstat().st_mode)
    except OSError:
        return  # unused, or unusable, which the bind reports
    if not is_socket:
        raise UserError(f"bus.bind: {endpoint}: {path} exists and is not a socket; choose another path")
    with closing(sockets.socket(sockets.AF_UNIX)) as probe:
        if probe.connect_ex(path) == 0:
            raise UserError(
                f"bus.bind: {endpoint} is in use, perhaps by another trainer; stop that or choose another path"
            )


@contextmanager
def _private_files() -> Iterator[None]:
    """New files, such as the socket of ipc://, are for this user alone, from the moment they exist."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
