"""What the bus costs the training loop, with any number of proposers, and under a flood."""

import argparse
import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from statistics import median, quantiles
from types import SimpleNamespace
from typing import Any

import torch

from bus.channel import Answer
from bus.leases import Leases
from bus.messages import Digest, Point
from bus.record import RecordingChannel
from bus.server import BusServer
from scripts.benchmarks.peers import READY_SECONDS, flood, propose
from shared.append_log import AppendLog
from shared.settings import BusSettings, Settings
from trainer.proposals import Proposals
from trainer.runs.metrics import TrainerMetrics
from trainer.runs.reporting import History
from trainer.search.evaluation import EvalResult
from trainer.search.events import Observers, Stepped
from trainer.search.pool import Pool
from trainer.search.restarts import Restarts
from trainer.search.state import RunState
from trainer.search.trajectory import Trajectory

PROCESSES = 4
LEAST_TURNS = 14
EVERYBODY = 1_000
"""More proposals than there are proposers."""

MATRIX = torch.randn(384, 384)
LANE: Any = SimpleNamespace(number=0)
LEASE_OPERATIONS = 2_000

DIGEST = Digest(
    run="bench", sequence=0, step=0, budget=10**9, task="Sort the mail.", labels=["ham", "spam"], num_tokens=8,
    num_candidates=12,
    trajectory=[Point(step=1, words="a mail about", cosine=0.9, train_loss=1.0, dev_loss=1.0, dev_accuracy=0.5)] * 10,
    substitutions=[], slope=None, best=[], outcomes=[],
)  # fmt: skip


class Exchange(Proposals):
    """What the loop does for the bus in each turn, with digests and candidates that cost nothing."""

    leased = settled = 0

    def _ask(self) -> None:
        leases = [lease.id for lease in self.channel.lease(DIGEST, EVERYBODY)]
        if leases:
            self.state.restarts.asked(self.state.lane_steps, leases)
            self.leased += len(leases)

    def _receive(self, answer: Answer) -> None:
        self.state.restarts.settled(answer.proposal.lease)
        self.settled += 1


def measure(options: argparse.Namespace) -> None:
    """Proposers and step times, then the lease machine, then a flood."""
    torch.set_num_threads(1)
    if options.only_flood:
        return _flood(options)
    print("proposers  step       leases  settled  bus in a turn, median, us: all   without news   an empty call")
    costs = {}
    for number in options.proposers:
        for step in options.steps:
            cost, quiet, empty, exchange = _serve(number, step, max(options.seconds, LEAST_TURNS * step))
            costs[number, step] = cost - empty
            print(
                f"{number:9}  {1000 * step:5.0f} ms  {exchange.leased:7}  {exchange.settled:7}  "
                f"{1e6 * cost:30.2f}  {1e6 * quiet:13.2f}  {1e6 * empty:14.2f}",
                flush=True,
            )
            if exchange.settled != exchange.leased:
                raise AssertionError(f"{exchange.leased - exchange.settled} proposals were not settled")
    worst = max(costs.values())
    print(f"largest median less an empty call, us: {1e6 * worst:.2f}, required <= 2: {_holds(worst <= 2e-6)}\n")
    _lease_machine()
    return _flood(options)


def _serve(number: int, step: float, seconds: float) -> tuple[float, float, float, Exchange]:
    """Median seconds that a turn of the loop needs for the bus, in all turns and in those without news, and for an
    empty call in the same place.

    A turn is that of `trainer.loop`: a step that keeps the processor busy, then history and metrics, then the
    exchange. The empty call comes in every second turn, because what comes first after the step finds caches cold.
    """
    settings = Settings(restarts={"request_every": max(16, round(0.1 / step))})
    bus = BusSettings(bind="tcp://127.0.0.1:*", ready_seconds=READY_SECONDS, lease_seconds=60.0)
    state = RunState([], EvalResult(0.0, 0.0), Trajectory(), Restarts(settings.restarts, 10**9), Pool())
    costs: dict[str, list[float]] = {"all": [], "quiet": [], "empty": []}
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(BusServer(bus, run="bench")) as server:
        channel = RecordingChannel(server, Path(folder) / "record.jsonl", lambda: state.lane_steps)
        rest = dict.fromkeys(field.name for field in fields(Proposals))
        exchange = Exchange(**{**rest, "settings": settings, "state": state, "channel": channel})  # type: ignore[arg-type]
        history = History(AppendLog(Path(folder) / "history.jsonl"), settings.proposer.budget)
        listeners = Observers([history, TrainerMetrics(recipe="bench", run="bench")])
        with _children(propose, server.endpoint, number):
            _until(lambda: server.counts().peers == number, f"{number} proposers connect")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                _compute(step)
                listeners(Stepped(state.lane_steps, [LANE], [1.0], step, 0.0, server.counts(), False))
                if state.iterations % 2:
                    costs["empty"].append(_time(_nothing))
                before = exchange.leased, exchange.settled
                cost = _time(exchange.exchange)
                state.iterations += 1
                state.lane_steps += 1
                if not state.iterations % 2:
                    continue  # the empty call was before it
                costs["all"].append(cost)
                if before == (exchange.leased, exchange.settled):
                    costs["quiet"].append(cost)
            _until(lambda: not server.counts().live, "every lease ends")
            exchange.collect()
        channel.close()
    return median(costs["all"]), median(costs["quiet"]), median(costs["empty"]), exchange


def _compute(seconds: float) -> None:
    """A gradient step: matrix products, without the interpreter's lock."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        torch.nn.functional.gelu(MATRIX @ MATRIX)


def _time(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _nothing() -> None:
    pass


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
    """Steps per second in short windows of one run, alternating without and with a flood, and the bus's processor time.

    The windows are short, because what else the machine does changes, and it would be taken for the flood's work.
    """
    with (
        contextlib.closing(BusServer(BusSettings(bind="tcp://127.0.0.1:*"), run="bench")) as server,
        _children(flood, server.endpoint, options.flood) as pause,
    ):
        _until(lambda: server.counts().rejected, "the flood arrives")
        pairs, seconds, busy = [], 0.0, 0.0
        for _ in range(options.pairs):
            rates = []
            for quiet in (True, False, True):
                (pause.set if quiet else pause.clear)()
                time.sleep(0.05)
                before = time.process_time() - time.thread_time()
                rates.append(_rate(server, options.window))
                if not quiet:
                    seconds += options.window
                    busy += time.process_time() - time.thread_time() - before
            pairs.append(2 * rates[1] / (rates[0] + rates[2]))
        read = sum(server.counts().rejected.values())
    ratio = median(pairs)
    print(f"a flood of {options.flood} messages/s, {options.pairs} windows of {options.window:g} s with it: ")
    print(f"{read} of its garbage was read; the bus's threads use {busy / seconds:.1%} of a core under it")
    low, high = quantiles(pairs, n=4)[0], quantiles(pairs, n=4)[2]
    print(
        f"the loop's speed with it, to that without: median {ratio:.3f} (quartiles {low:.3f} and {high:.3f}), ", end=""
    )
    print(f"required > 0.95: {_holds(ratio > 0.95)}")


def _rate(server: BusServer, seconds: float) -> float:
    """Turns a second of a loop that computes and looks at the bus."""
    turns, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        for _ in range(5):
            torch.nn.functional.gelu(MATRIX @ MATRIX)
        if server.news:
            server.poll()
        turns += 1
    return turns / (time.monotonic() - began)


@contextlib.contextmanager
def _children(program: Any, endpoint: str, number: int) -> Iterator[Any]:
    """Processes of proposers, or one of a flood, which the event that is given pauses."""
    spawn = multiprocessing.get_context("spawn")
    pause = spawn.Event()
    if program is flood:
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
