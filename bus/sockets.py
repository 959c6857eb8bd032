"""What both ends' sockets have in common."""

import re

import zmq

HEARTBEAT_MS = 2_000
DEAD_AFTER_MS = 6_000
LINGER_MS = 300
QUEUE = 100

SILENT_INTERVALS = 5
"""Who has said nothing for so many ready intervals is taken for gone."""

Socket = zmq.Socket[bytes]


def host_of(endpoint: str) -> str | None:
    """The host of tcp://HOST:PORT, without the brackets of IPv6; None if it is no such address.

    libzmq itself would take port 99999 for 34463.
    """
    match = re.fullmatch(r"tcp://(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5}|\*)", endpoint)
    if match is None or (match[3] != "*" and int(match[3]) > 65_535):
        return None
    return match[1] or match[2]


def open_socket(context: zmq.Context[Socket], kind: int, endpoint: str, max_frame_bytes: int) -> Socket:
    """A socket of `kind` with the options of both ends, not yet bound or connected to `endpoint`."""
    socket = context.socket(kind)
    # Heartbeats notice dead hosts and cut cables. They are answered by libzmq's own thread, so a
    # Python that hangs still passes: leases and repeated readies notice that.
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_AFTER_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, DEAD_AFTER_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
    socket.setsockopt(zmq.SNDHWM, QUEUE)
    socket.setsockopt(zmq.RCVHWM, QUEUE)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)
    return socket


def receive_frames(socket: Socket, keep: int) -> tuple[list[bytes], bool]:
    """The next message's first `keep` frames, and whether it had no others.

    MAXMSGSIZE limits a frame, not their number, so the rest is read but not kept.

    Raises:
        zmq.Again: nothing is there.
    """
    frames = [socket.recv(zmq.NOBLOCK)]
    exact = True
    while socket.getsockopt(zmq.RCVMORE):
        frame = socket.recv(zmq.NOBLOCK)
        exact = len(frames) < keep
        if exact:
            frames.append(frame)
    return frames, exact and len(frames) == keep


def send(socket: Socket, frames: list[bytes]) -> bool:
    """Send now or not at all; False if nobody is there or the queue is full."""
    try:
        socket.send_multipart(frames, zmq.NOBLOCK)
    except zmq.ZMQError as error:
        if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            return False
        raise
    return True
