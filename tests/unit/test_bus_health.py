"""What /healthz of a proposer says while a request to the LLM hangs."""

import threading
import time
from contextlib import closing

import pytest

from bus.client import BusClient
from bus.messages import Digest
from bus.server import BusServer
from proposer import agent
from proposer.chain import Answer
from proposer.metrics import ProposerMetrics
from shared.health import Health
from shared.settings import BusSettings, ProposerSettings

DIGEST = Digest(
    run="r", sequence=0, step=0, budget=10, task="t", labels=["a", "b"], num_tokens=4, num_candidates=2,
    trajectory=[], substitutions=[], slope=None, best=[], outcomes=[],
)  # fmt: skip


class Blocking:
    """A chain whose library blocks the event loop, where no timeout can end it."""

    def __init__(self):
        self.released = threading.Event()

    async def ask(self, *_):
        self.released.wait()
        return Answer([], 0, 0.0, None, None, False)


async def nothing():
    return None


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


@pytest.mark.parametrize("patience", [0.3, 3600.0])
def test_a_request_that_nothing_can_end_makes_a_proposer_stale(patience, monkeypatch):
    monkeypatch.setattr(agent, "OVERDUE_SECONDS", patience)
    chain, health = Blocking(), Health(stale_seconds=1.0)
    with closing(BusServer(BusSettings(bind="tcp://127.0.0.1:*", ready_seconds=0.1), run="r")) as server:
        client = BusClient(BusSettings(connect=[server.endpoint], ready_seconds=0.1), name="p", model="m")
        settings = ProposerSettings(timeout_seconds=0.1)
        one = agent.Agent(settings, chain, client, ProposerMetrics(recipe="demo", model="m"), health, prepare=nothing)
        thread = threading.Thread(target=one.run)
        thread.start()
        try:
            until(server.can_lease)
            assert server.lease(DIGEST, 1)
            if patience < 1:
                until(lambda: health.report()[1]["status"] == "stale")
            else:
                time.sleep(1.5)
                assert health.report()[1]["status"] == "ok"
            chain.released.set()
            until(lambda: health.report()[1]["status"] == "ok")
        finally:
            chain.released.set()
            one.stop()
            thread.join()
            client.close()
