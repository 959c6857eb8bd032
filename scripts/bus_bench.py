"""What the bus costs the training loop, with any number of proposers, and under a flood."""

import argparse
import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import zmq

from bus.channel import Answer
from bus.codec import decode, encode
from bus.leases import Leases
from bus.messages import Digest, Point, Proposal, Ready, Usage, Work
from bus.server import BusServer
from shared.settings import BusSettings

PROCESSES = 4
LIMIT = BusSettings().max_frame_bytes
READY_SECONDS = 2.0
LEASE_OPERATIONS = 2_000

DIGEST = Digest(
    run="bench", sequence=0, step=0, budget=10**9, task="Sort the mail.", labels=["ham", "spam"], num_tokens=8,
    num_candidates=12,
    trajectory=[Point(step=1, words="a mail about", cosine=0.9, train_loss=1.0, dev_loss=1.0, dev_accuracy=0.5)] * 10,
    substitutions=[], slope=None, best=[], outcomes=[],
)  # fmt: skip


def bus(options: argparse.Namespace) -> None:
    """Proposers and step times, then the lease machine, then a flood."""
    print("proposers  step       leases  settled  loop cost a turn, median")
    costs = {}
    for number in options.proposers:
        for step in options.steps:
            seconds = max(options.seconds, 4 * step)
            costs[number, step], leased, settled = _serve(number, step, seconds)
            cost = costs[number, step]
            print(f"{number:9}  {1000 * step:5.0f} ms  {leased:7}  {settled:7}  {1e6 * cost:.2f} us", flush=True)
            if settled != leased:
                raise AssertionError(f"{leased - settled} of {leased} proposals were not settled")
    few, many = min(options.proposers), max(options.proposers)
    for step in options.steps:
        ratio = costs[many, step] / costs[few, step]
        print(f"loop cost of {many} to that of {few} proposers, {1000 * step:g} ms steps: {ratio:.2f}")
    worst = max(costs.values())
    print(f"largest median of the loop cost, us: {1e6 * worst:.2f}, required <= 2: {_holds(worst <= 2e-6)}\n")
    _lease_machine()
    _flood(options)


def _serve(number: int, step: float, seconds: float) -> tuple[float, int, int]:
    """Median seconds that a turn of the loop spends on the bus, leases granted, and proposals settled."""
    settings = BusSettings(bind="tcp://127.0.0.1:*", ready_seconds=READY_SECONDS, lease_seconds=60.0)
    server, costs, leased, settled = BusServer(settings, run="bench"), [], 0, 0
    try:
        with _children(_proposers, server.endpoint, number):
            _until(lambda: server.counts().peers == number, f"{number} proposers connect")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(step)  # a gradient step: elsewhere, without the interpreter's lock
                _awake()
                began = time.perf_counter()
                events = server.poll()
                free = server.can_lease()
                costs.append(time.perf_counter() - began)
                settled += sum(isinstance(event, Answer) for event in events)
                del events  # here, because freeing them is not part of the look
                if free:
                    leased += len(server.lease(DIGEST, number))
            _until(lambda: not server.counts().live, "every lease ends")
            settled += sum(isinstance(event, Answer) for event in server.poll())
    finally:
        server.close()
    return median(costs), leased, settled


def _awake() -> None:
    """Some Python, as a step has at its end: what a processor takes to wake up is not the bus's cost."""
    began = time.perf_counter()
    while time.perf_counter() - began < 2e-4:
        pass


def _proposers(endpoint: str, number: int) -> None:
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


def _lease_machine() -> None:
    """Microseconds of ready, grant and settle with few and with many peers."""
    times = {}
    for number in (10, 10_000):
        leases = Leases(lease_seconds=1e6, forget_seconds=1e6)
        peers = [index.to_bytes(4, "big") for index in range(number)]
        for peer in peers:
            leases.ready(peer, 1, [], 0.0)
        began = time.thread_time()
        for index in range(LEASE_OPERATIONS):
            lease = leases.grant(DIGEST, 0.0)
            assert lease is not None
            leases.settle(lease.id, lease.peer)
            leases.ready(peers[index % number], 1, [], 1.0)
            leases.ready(lease.peer, 1, [], 1.0)
            leases.expire(2.0)
            leases.take_ended()
        times[number] = (time.thread_time() - began) / LEASE_OPERATIONS
        print(f"lease machine with {number:6} peers: {1e6 * times[number]:.1f} us for grant, settle, ready, expire")
    ratio = times[10_000] / times[10]
    print(f"ratio: {ratio:.2f}, required < 2: {_holds(ratio < 2)}\n")


def _flood(options: argparse.Namespace) -> None:
    """Steps per second in windows of one run, alternating without and with a flood."""
    import torch

    torch.set_num_threads(1)
    left = torch.randn(384, 384)
    server = BusServer(BusSettings(bind="tcp://127.0.0.1:*"), run="bench")

    def rate(seconds: float) -> float:
        iterations, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            for _ in range(20):
                torch.nn.functional.gelu(left @ left)
            server.poll()
            server.can_lease()
            iterations += 1
        return iterations / (time.monotonic() - began)

    with contextlib.closing(server), _children(_sender, server.endpoint, options.flood) as pause:
        rate(1.0)
        pairs, sent = [], 0
        for _ in range(options.pairs):
            pause.set()
            before = rate(options.window)
            pause.clear()
            with_flood = rate(options.window)
            pause.set()
            pairs.append(with_flood / ((before + rate(options.window)) / 2))
            sent = sum(server.counts().rejected.values())
    ratio = median(pairs)
    print(f"a flood of {options.flood} messages/s; {sent} were read; ratios {' '.join(f'{one:.3f}' for one in pairs)}")
    print(f"median ratio of the loop's speed with a flood: {ratio:.3f}, required > 0.95: {_holds(ratio > 0.95)}")


def _sender(endpoint: str, rate: int, pause: Any) -> None:
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


@contextlib.contextmanager
def _children(program: Any, endpoint: str, number: int) -> Iterator[Any]:
    """Processes of proposers, or one of a flood, which the event that is given pauses."""
    spawn = multiprocessing.get_context("spawn")
    pause = spawn.Event()
    if program is _sender:
        arguments = [(endpoint, number, pause)]
    else:
        shares = [number // PROCESSES + (index < number % PROCESSES) for index in range(PROCESSES)]
        arguments = [(endpoint, share) for share in shares if share]
    children = [spawn.Process(target=program, args=one, daemon=True) for one in arguments]
    for child in children:
        child.start()
    try:
        yield pause
    finally:
        for child in children:
            child.kill()
            child.join()


def _until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within 60 s: {what}")
        time.sleep(0.01)


def _holds(holds: bool) -> str:
    return "holds" if holds else "DOES NOT HOLD"
