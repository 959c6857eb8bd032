"""Proposers and a flood for scripts/bench bus, in a module that loads no torch: each is a process of its own."""

import contextlib
import os
import time
from typing import Any

import zmq

from bus.codec import decode, encode
from bus.messages import Proposal, Ready, Usage, Work
from shared.settings import BusSettings

LIMIT = BusSettings().max_frame_bytes
READY_SECONDS = 2.0


def propose(endpoint: str, number: int) -> None:
    """A share of the proposers: answers every lease at once, and says ready in time."""
    context, poller = zmq.Context(), zmq.Poller()
    ready = encode(Ready(name="bench", model="none", credits=1, holding=[]), LIMIT)
    sockets = []
    for _ in range(number):
        socket = context.socket(zmq.DEALER)
        socket.connect(endpoint)
        poller.register(socket, zmq.POLLIN)
        sockets.append(socket)
    due = 0.0
    while True:
        if time.monotonic() >= due:
            for socket in sockets:
                socket.send(ready)
            due = time.monotonic() + READY_SECONDS
        for socket, _ in poller.poll(100):
            message = decode(socket.recv(), LIMIT)
            if isinstance(message, Work):
                usage = Usage(seconds=0.0)
                words = [f"a mail that is number {index}" for index in range(12)]
                socket.send(encode(Proposal(lease=message.lease, model="none", candidates=words, usage=usage), LIMIT))
                socket.send(ready)


def flood(endpoint: str, rate: int, pause: Any) -> None:
    """Sends `rate` messages a second, garbage and readies, unless `pause` is set."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.setsockopt(zmq.SNDHWM, 100)
    socket.connect(endpoint)
    ready = encode(Ready(name="flood", model="none", credits=0, holding=[]), LIMIT)
    while True:
        began = time.monotonic()
        for index in range(0 if pause.is_set() else rate // 100):
            with contextlib.suppress(zmq.Again):
                socket.send(ready if index % 2 else os.urandom(50), zmq.NOBLOCK)
        time.sleep(max(0.0, 0.01 - (time.monotonic() - began)))
