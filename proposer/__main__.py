"""`python -m proposer`: serves trainers until it is told to stop."""

import logging
import os
import signal
import socket
import sys
from types import FrameType
from typing import NoReturn

from proposer.metrics import ProposerMetrics
from shared import health, logs
from shared.config import CommandLine
from shared.errors import run_command
from shared.settings import Settings

log = logging.getLogger("proposer")


def main() -> int:
    """Read the settings, make the model, serve; 0 when told to stop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # the imports take a while, and a stop must not wait for them
    settings = _settings()
    logs.set_up()
    _serve(settings)
    return 0


def _settings() -> Settings:
    parser = CommandLine(
        "python -m proposer",
        "Ask an LLM for prompts in words and send them to trainers, until told to stop.",
        {"proposer.model": "model"},
    )
    return parser.resolve(parser.parse_args())


def _serve(settings: Settings) -> None:
    from bus.client import BusClient  # these load LangChain, which --help and a wrong setting need not wait for
    from proposer.agent import Agent
    from proposer.chain import ProposalChain
    from proposer.chat_models import choose_kind, make_model

    chain = ProposalChain(make_model(settings.proposer), choose_kind(settings.proposer))
    chain.warm_up()
    metrics = ProposerMetrics(recipe=settings.recipe, model=settings.proposer.model)
    alive = health.Health(settings.metrics.stale_seconds)
    end = BusClient(
        settings.bus.connect,
        name=f"{socket.gethostname()}-{os.getpid()}"[:200],
        model=settings.proposer.model[:200],
        ready_seconds=settings.bus.ready_seconds,
        max_frame_bytes=settings.bus.max_frame_bytes,
    )
    health.start(settings.metrics, metrics.registry, alive)
    agent = Agent(settings.proposer, chain, end, metrics, alive)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    log.info("%s waits for work from %s", settings.proposer.model, ", ".join(settings.bus.connect))
    agent.run()
    end.close()
    sys.stdout.flush()
    os._exit(0)  # Python would wait for requests under way, which nobody wants any more


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    run_command(main)
