"""What scripts/soak does to a trainer and its proposers."""

import errno
import logging
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass

import zmq

from bus.client import BusClient
from bus.codec import encode
from bus.keys import read_secret
from bus.messages import Proposal, Ready, Usage
from scripts.soaking.system import System
from shared.settings import BusSettings

LIMIT = BusSettings().max_frame_bytes
FLOOD = 1_000
"""Messages a second of a flood."""

Remedy = Callable[[], None]


@dataclass(frozen=True)
class Trouble:
    """Something that goes wrong for a while."""

    name: str
    begin: Callable[[], Remedy]
    """Lets it happen; what it returns sets it right again."""
    seconds: tuple[float, float]
    """Shortest and longest duration."""
    needs: tuple[str, ...]
    """What no other trouble may touch meanwhile."""


def troubles(system: System, dice: random.Random) -> list[Trouble]:
    """All kinds, except those that stop the trainer."""
    kinds = [
        Trouble("garbage replies", lambda: _mood(system, garbage=dice), (3, 10), ("llm",)),
        Trouble("LLM hangs", lambda: _mood(system, delay=20.0), (3, 8), ("llm",)),
        Trouble("LLM fails", lambda: _mood(system, status=500), (3, 10), ("llm",)),
        Trouble("LLM drips", lambda: _mood(system, drip=1.5), (3, 8), ("llm",)),
        Trouble("LLM down", lambda: _llm_down(system), (2, 6), ("llm",)),
        Trouble("trainer suspended", lambda: _suspend(system, "trainer"), (1, 8), ("trainer",)),
        Trouble("flood", lambda: _flood(system, dice.random()), (2, 4), ("mad",)),
        Trouble("unlisted key", lambda: _unlisted(system), (2, 4), ("unlisted",)),
        Trouble("key revoked", lambda: _revoke(system, system.names[-1]), (3, 8), (system.names[-1],)),
    ]
    if system.has_disk:
        kinds.append(Trouble("disk full", lambda: _fill(system), (3, 8), ("trainer",)))
    for name in system.names[1:]:
        kinds.append(Trouble("kill -9 of a proposer", lambda name=name: _kill(system, name), (1, 5), (name,)))
    for name in system.names[:2]:
        kinds.append(Trouble("proposer suspended", lambda name=name: _suspend(system, name), (1, 12), (name,)))
    kinds.append(Trouble("proposer stopped", lambda: _stop(system, system.names[2]), (1, 3), (system.names[2],)))
    return kinds


def restarts_of_the_trainer(system: System) -> list[Trouble]:
    """The trainer is stopped or killed, and its run resumed."""
    return [
        Trouble("trainer stopped", lambda: _end_trainer(system, signal.SIGTERM, 143), (1, 4), ("trainer",)),
        Trouble("kill -9 of the trainer", lambda: _end_trainer(system, signal.SIGKILL, -9), (1, 4), ("trainer",)),
    ]


def _mood(system: System, **values: object) -> Remedy:
    """Set attributes of the LLM for a while."""
    before = {name: getattr(system.llm, name) for name in values}

    def set_all(values: dict[str, object]) -> None:
        for name, value in values.items():
            setattr(system.llm, name, value)

    set_all(values)
    return lambda: set_all(before)


def _llm_down(system: System) -> Remedy:
    system.llm.stop()
    return system.llm.start


def _suspend(system: System, name: str) -> Remedy:
    process = system.processes[name]
    system.suspended.add(name)
    process.send(signal.SIGSTOP)

    def go_on() -> None:
        process.send(signal.SIGCONT)
        time.sleep(1.0)  # its beat is as old as the suspension was long
        system.suspended.discard(name)

    return go_on


def _kill(system: System, name: str) -> Remedy:
    system.end(name, signal.SIGKILL, -9)
    return lambda: system.start_proposer(name)


def _stop(system: System, name: str) -> Remedy:
    system.end(name, signal.SIGTERM, 0)
    return lambda: system.start_proposer(name)


def _end_trainer(system: System, number: signal.Signals, status: int) -> Remedy:
    system.end("trainer", number, status)
    return system.resume


def _revoke(system: System, name: str) -> Remedy:
    short = name.replace(" ", "")
    system.keys("revoke", short)
    return lambda: system.keys("allow", short)


def _unlisted(system: System) -> Remedy:
    """A client whose key is not listed, which must not be heard."""
    settings = BusSettings(
        connect=[system.bind], secret_key=system.key("unlisted"), trainer_keys=[system.public("trainer")]
    )

    def connect(stop: threading.Event) -> None:
        logging.getLogger("bus.client").setLevel(logging.ERROR)  # it is refused, as it should be
        with closing(BusClient(settings, name="unlisted", model="none")) as client:
            client.ready(64, {})
            while not stop.is_set():
                if client.receive(0.1) or client.connected:
                    system.find("a key that is not listed was admitted")
                    return

    return _in_thread(connect)


def _flood(system: System, seed: float) -> Remedy:
    """An admitted proposer gone mad: it takes leases and never answers, and sends anything."""
    public, secret = read_secret(system.key("mad"), "the mad proposer")

    def send(stop: threading.Event) -> None:
        dice = random.Random(seed)
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 100)
        socket.setsockopt(zmq.CURVE_SERVERKEY, system.public("trainer").encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.connect(system.bind)
        while not stop.is_set():
            for _ in range(FLOOD // 50):
                with suppress(zmq.Again):
                    socket.send_multipart(_message(dice), zmq.NOBLOCK)
            time.sleep(0.02)
        context.destroy(linger=0)

    return _in_thread(send)


def _message(dice: random.Random) -> list[bytes]:
    match dice.randrange(20):
        case 0:
            return [b""] * 200
        case 1:
            return [dice.randbytes(100_000)]
        case 2 | 3:
            return [encode(Ready(name="mad", model="none", credits=dice.randrange(65), holding=[]), LIMIT)]
        case 4 | 5 | 6:
            usage = Usage(seconds=0.0)
            return [encode(Proposal(lease=f"{dice.random()}", model="none", candidates=["w"], usage=usage), LIMIT)]
        case _:
            return [dice.randbytes(dice.randrange(200))]


def _in_thread(work: Callable[[threading.Event], None]) -> Remedy:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,), daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end


def _fill(system: System) -> Remedy:
    """Leave no byte of the run's disk."""
    filler = system.disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return filler.unlink
