"""`python -m comparison.slow_proposer SECONDS [settings]`: a proposer whose LLM sleeps before each answer."""

from shared.startup import end_on_signals

end_on_signals(0)

import asyncio  # noqa: E402 - imports take a while, and a stop must not wait for them
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from dataclasses import replace  # noqa: E402
from functools import partial  # noqa: E402

from bus.messages import CandidateOutcome, Digest  # noqa: E402
from proposer.chain import Answer, ProposalChain  # noqa: E402
from proposer.command import main  # noqa: E402
from shared.errors import run_command  # noqa: E402

DELAY = int(sys.argv.pop(1))


class SlowChain(ProposalChain):
    """Sleeps before each request."""

    async def ask(self, digest: Digest, outcomes: Sequence[CandidateOutcome], deadline: float) -> Answer:
        """See `ProposalChain`; the sleep counts as the LLM's time, and the deadline is later by as much."""
        await asyncio.sleep(DELAY)
        answer = await super().ask(digest, outcomes, deadline + DELAY)
        return replace(answer, seconds=answer.seconds + DELAY)


if __name__ == "__main__":
    run_command(partial(main, SlowChain))
