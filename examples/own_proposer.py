"""A proposer in plain Python: pyzmq and msgpack, nothing of Tandem. docs/protocol.md describes the messages.

    python examples/own_proposer.py tcp://127.0.0.1:5555

It varies the best prompt so far: one word is replaced by a word that the gradient points to. Replace `candidates`
with a call of your LLM. Ends when the trainer leaves.
"""

import random
import sys
import time
from contextlib import suppress
from typing import Any

import msgpack
import zmq

MODEL = "own-proposer"
READY_SECONDS = 2.0
"""Interval of the ready messages; the trainer takes a proposer for gone after five intervals without one."""


def candidates(digest: dict[str, Any]) -> list[str]:
    """Prompts in words, as many as the digest asks for. If this takes more than 10 s, send `ready` meanwhile."""
    best = digest["best"][0]["words"].split() if digest["best"] else [digest["task"]]
    words = [word for one in digest["substitutions"] for word in one["replacements"]] or digest["labels"]
    found: set[str] = set()
    for _ in range(4 * digest["num_candidates"]):
        changed = list(best)
        changed[random.randrange(len(changed))] = random.choice(words)
        found.add(" ".join(changed))
    return sorted(found)[: digest["num_candidates"]]


def main(endpoint: str) -> None:
    """Serve the trainer at `endpoint` until it leaves."""
    dealer = zmq.Context().socket(zmq.DEALER)
    dealer.setsockopt(zmq.IMMEDIATE, 1)  # nothing queues up for a trainer that is not there
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(endpoint)

    def send(kind: str, **fields: Any) -> None:
        with suppress(zmq.Again):  # no trainer yet; a later ready finds one
            dealer.send(msgpack.packb({"v": 2, "kind": kind, **fields}), zmq.NOBLOCK)

    ready_at = 0.0
    while True:
        if time.monotonic() >= ready_at:
            send("ready", name="example", model=MODEL, credits=1, holding=[])
            ready_at = time.monotonic() + READY_SECONDS
        if not dealer.poll(200):
            continue
        message = msgpack.unpackb(dealer.recv())
        if message["kind"] == "work":
            began = time.monotonic()
            words = candidates(message["digest"])
            usage = {"seconds": time.monotonic() - began}
            send("proposal", lease=message["lease"], model=MODEL, candidates=words, usage=usage)
            print(f"step {message['digest']['step']}: {len(words)} candidates", flush=True)
            ready_at = 0.0  # the slot is free again
        elif message["kind"] == "reject":
            print(f"refused: {message['reason']} {message.get('detail', '')}", file=sys.stderr)
        elif message["kind"] == "bye":
            return


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555")
