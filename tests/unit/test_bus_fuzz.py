"""Any frames at all, through a real socket and the real thread: the bus lives, and serves others meanwhile.

FUZZ_FRAMES=1000000 pytest tests/unit/test_bus_fuzz.py sends as many frames.
"""

import os
import random
import time

import msgpack
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus import router
from bus.channel import Answer
from bus.codec import decode, encode
from bus.messages import Ack, Bye, Digest, Outcomes, Proposal, Ready, Reject, Usage, Work
from bus.server import BusServer
from shared.settings import BusSettings

FRAMES = int(os.environ.get("FUZZ_FRAMES", "200000"))
BATCH = 2000
LENGTHS = [1] * 12 + [2, 3, 20]
"""Frames of a message; all but one are dropped unread."""

LIMIT = 262_144

DIGEST = Digest(
    run="r", sequence=0, step=0, budget=10, task="t", labels=["a", "b"], num_tokens=4, num_candidates=2,
    trajectory=[], substitutions=[], slope=None, best=[], outcomes=[],
)  # fmt: skip

SEEDS = [
    encode(message, LIMIT)
    for message in (
        Ready(name="n", model="m", credits=3, holding=["x"]),
        Ack(run="r"),
        Work(lease="l", seconds=1.0, digest=DIGEST),
        Proposal(lease="l", model="m", candidates=["w"] * 5, usage=Usage(seconds=0.1)),
        Outcomes(run="r", lease="l", step=1, outcomes=[]),
        Reject(reason="failed", lease="l"),
        Bye(),
    )
] + [msgpack.packb({"v": 1, "kind": "ready"}), b""]


def value(dice, depth=0):
    """Any value that msgpack can say."""
    kind = dice.randrange(9 if depth < 3 else 7)
    if kind < 7:
        return (None, dice.random() < 0.5, dice.randrange(-(2**63), 2**64), dice.random(), float("nan"),
                "w" * dice.randrange(300), dice.randbytes(dice.randrange(20)))[kind]  # fmt: skip
    inner = [value(dice, depth + 1) for _ in range(dice.randrange(5))]
    return inner if kind == 7 else {f"k{index}": part for index, part in enumerate(inner)}


def frame(dice):
    """Garbage, a damaged message, a message with any value in a field, or any msgpack."""
    seed = dice.choice(SEEDS)
    match dice.randrange(5):
        case 0:
            return dice.randbytes(dice.randrange(100))
        case 1:
            damaged = bytearray(seed)
            for _ in range(dice.randrange(1, 5)):
                at = dice.randrange(len(damaged) + 1)
                damaged[at : at + dice.randrange(4)] = dice.randbytes(dice.randrange(4))
            return bytes(damaged)
        case 2 if seed:
            fields = msgpack.unpackb(seed)
            return msgpack.packb({**fields, dice.choice([*fields, "new"]): value(dice)})
        case 3:
            return msgpack.packb(value(dice))
    return seed


class Wire:
    """A trainer, an honest proposer, and a stranger that sends anything."""

    def __init__(self):
        self.server = BusServer(BusSettings(bind="tcp://127.0.0.1:*"), run="r")
        self.context = zmq.Context()
        self.honest = self.context.socket(zmq.DEALER)
        self.honest.connect(self.server.endpoint)

    def stranger(self):
        socket = self.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDTIMEO, 20_000)
        socket.connect(self.server.endpoint)
        return socket

    def serve(self):
        """The honest proposer says ready and answers a lease."""
        deadline = time.monotonic() + 20
        self.honest.send(encode(Ready(name="h", model="m", credits=1, holding=[]), LIMIT))
        while time.monotonic() < deadline:
            if self.server.can_lease():
                self.server.lease(DIGEST, 1)
            for event in self.server.poll():
                if isinstance(event, Answer) and event.proposal.model == "honest":
                    return
            while self.honest.poll(1):
                message = decode(self.honest.recv(), LIMIT)
                if isinstance(message, Work):
                    proposal = Proposal(lease=message.lease, model="honest", candidates=[], usage=Usage(seconds=0))
                    self.honest.send(encode(proposal, LIMIT))
                    self.honest.send(encode(Ready(name="h", model="m", credits=1, holding=[]), LIMIT))
        raise AssertionError("the honest proposer is not served")


def test_the_bus_survives_any_frames(monkeypatch, caplog):
    monkeypatch.setattr(router, "PAUSE_FACTOR", 0.0)  # else this takes minutes
    wire = Wire()

    @settings(max_examples=max(1, FRAMES // BATCH), deadline=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 2**32))
    def attack(seed):
        dice = random.Random(seed)
        before = sum(wire.server.counts().rejected.values())
        stranger = wire.stranger()
        left = BATCH
        while left > 0:
            frames = min(left, dice.choice(LENGTHS))
            stranger.send_multipart([frame(dice) for _ in range(frames)])
            left -= frames
        wire.serve()
        deadline = time.monotonic() + 20
        while sum(wire.server.counts().rejected.values()) == before:
            assert time.monotonic() < deadline, "nothing was rejected"
            time.sleep(0.001)
        stranger.close()
        assert wire.server.wait(0.0), "the thread has ended"
        assert len(wire.server.counts().rejected) <= 3

    try:
        attack()
    finally:
        wire.server.close()
        wire.context.destroy(linger=0)
    assert "Traceback" not in caplog.text


def test_a_message_of_many_frames_does_not_hold_training_up():
    """Its frames are read in parts: a lease is granted meanwhile, and the message counts as one."""
    wire = Wire()
    try:
        wire.serve()
        stranger = wire.stranger()
        stranger.send_multipart([b""] * 100_000)
        wire.serve()
        while wire.server.counts().rejected != {"malformed": 1}:
            time.sleep(0.01)
        stranger.close()
    finally:
        wire.server.close()
        wire.context.destroy(linger=0)
