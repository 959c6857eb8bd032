"""What the sockets of both ends have in common."""

import re

import zmq

PROBE_SECONDS = 2
"""A silent connection is probed this often."""

DEAD_AFTER_SECONDS = 6
"""A connection whose other end does not acknowledge anything for this long is given up."""

LINGER_MS = 300
QUEUE = 100

SILENT_INTERVALS = 5
"""A peer that was silent for this many ready intervals is considered gone."""

Socket = zmq.Socket[bytes]


def host_of(endpoint: str) -> str | None:
    """The host of tcp://HOST:PORT, without the brackets of IPv6; None if it is not one.

    libzmq itself would take port 99999 for 34463.
    """
    match = re.fullmatch(r"tcp://(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5}|\*)", endpoint)
    if match is None or (match[3] != "*" and int(match[3]) > 65_535):
        return None
    return match[1] or match[2]


def open_socket(context: zmq.Context[Socket], kind: int, endpoint: str, max_frame_bytes: int) -> Socket:
    """A socket of `kind` with the options of both ends, not yet bound or connected to `endpoint`."""
    socket = context.socket(kind)
    # TCP notices dead hosts and cut cables; leases and repeated readies notice a Python that hangs. ZMTP's heartbeats
    # are off: libzmq 4.3.5 aborts the process when one is due on a connection that broke while its queue was full.
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, PROBE_SECONDS)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, PROBE_SECONDS)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, DEAD_AFTER_SECONDS // PROBE_SECONDS)
    socket.setsockopt(zmq.TCP_MAXRT, 1000 * DEAD_AFTER_SECONDS)
    socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
    socket.setsockopt(zmq.SNDHWM, QUEUE)
    socket.setsockopt(zmq.RCVHWM, QUEUE)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)
    return socket


def receive_frame(socket: Socket) -> bytes | None:
    """The next message of a DEALER; None if it has more than one frame.

    MAXMSGSIZE limits a frame, not their number, so the others are read but not kept.

    Raises:
        zmq.Again: no message has arrived.
    """
    frame: bytes | None = socket.recv(zmq.NOBLOCK)
    while socket.getsockopt(zmq.RCVMORE):
        socket.recv(zmq.NOBLOCK)
        frame = None
    return frame


def send(socket: Socket, frames: list[bytes]) -> bool:
    """Send without blocking; False if nobody is connected or the queue is full."""
    try:
        socket.send_multipart(frames, zmq.NOBLOCK)
    except zmq.ZMQError as error:
        if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            return False
        raise
    return True
