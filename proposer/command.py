"""The proposer as a program."""

import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from proposer.metrics import ProposerMetrics
from shared import health, logs
from shared.config import CommandLine
from shared.settings import Settings

if TYPE_CHECKING:  # loads LangChain
    from proposer.chain import ProposalChain

log = logging.getLogger(__name__)


def main(chain_type: "type[ProposalChain] | None" = None) -> int:
    """Read the settings, make the model, serve; 0 when stopped. `chain_type` takes the place of `ProposalChain`."""
    settings = _settings()
    logs.set_up()
    _serve(settings, chain_type)
    return 0


def _settings() -> Settings:
    parser = CommandLine(
        "python -m proposer",
        "Ask an LLM for prompts in words and send them to trainers, until stopped.",
        {"proposer.model": "model"},
    )
    return parser.resolve(parser.parse_args())


def _serve(settings: Settings, chain_type: "type[ProposalChain] | None") -> None:
    from bus.client import BusClient  # these load LangChain, which --help and a wrong setting need not wait for
    from proposer.agent import Agent
    from proposer.chain import ProposalChain
    from proposer.chat_models import choose_kind, make_model
    from proposer.ledger import Ledger
    from proposer.ollama import check

    model = make_model(settings.proposer)
    kind = choose_kind(settings.proposer)
    budget = settings.proposer.budget
    path = Path(budget.file or Path(settings.folder) / "proposer-budget.json").expanduser()
    ledger = Ledger(budget, path, settings.proposer.model) if budget.limited else None
    structured = settings.proposer.structured == "auto"
    seed = settings.proposer.seed
    chain = (chain_type or ProposalChain)(model, kind, structured=structured, ledger=ledger, seed=seed)

    async def prepare() -> str | None:
        provider, _, name = settings.proposer.model.partition(":")
        if provider == "ollama":
            return await check(settings.proposer, name)
        await chain.warm_up()
        return None

    metrics = ProposerMetrics(recipe=settings.recipe, model=settings.proposer.model)
    alive = health.Health(settings.metrics.stale_seconds)
    end = BusClient(
        settings.bus,
        name=f"{socket.gethostname()}-{os.getpid()}"[:200],
        model=settings.proposer.model[:200],
    )
    health.start(settings.metrics, metrics.registry, alive)
    agent = Agent(settings.proposer, chain, end, metrics, alive, prepare=prepare, ledger=ledger)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    log.info("%s waits for work from %s", settings.proposer.model, ", ".join(settings.bus.connect))
    agent.run()
    end.close()
    sys.stdout.flush()
    os._exit(0)  # Python would wait for threads of requests under way
