"""The way from a digest to candidates: meta-prompt, model, parser."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.runnables import Runnable, RunnableConfig

from bus.messages import CandidateOutcome, Digest
from proposer.candidate import key
from proposer.ledger import BudgetReached, Ledger
from proposer.meta_prompt import Kind, beginning, write
from proposer.ollama import fit_context
from proposer.parsing import Parsed, collect, parse_continuations, parse_list
from proposer.request import RequestCallback
from proposer.structure import is_refused, structured_items, with_structure

log = logging.getLogger(__name__)

LINE_TOKENS = 20
"""Maximum length of a continuation."""

ROUNDS = 3
"""Continuations are cheap and often repeat the list, so missing ones are drawn again, in this many rounds."""


@dataclass(frozen=True)
class Answer:
    """What the LLM gave for one digest, and its cost."""

    candidates: list[str]
    dropped: int
    """Items that were empty or repetitions."""
    seconds: float
    tokens_in: int | None
    tokens_out: int | None
    cut: bool = False
    """A reply reached its maximum length before its end."""


class ProposalChain:
    """Asks one model, any number of times at once, all in one event loop."""

    def __init__(
        self,
        model: BaseLanguageModel[Any],
        kind: Kind,
        *,
        structured: bool = True,
        ledger: Ledger | None = None,
        seed: int | None = None,
    ) -> None:
        """`seed` draws which openings this proposer asks for first; None draws them anew each time."""
        self._model = model
        self._kind = kind
        self._is_chat = isinstance(model, BaseChatModel)
        self._ledger = ledger
        self._proposer = random.Random(seed).getrandbits(16)
        self._structured: Runnable[Any, Any] | None = None
        if structured and kind == "instruct" and isinstance(model, BaseChatModel):
            self._structured = with_structure(model)

    async def warm_up(self) -> None:
        """Let a model in this process read the beginning that all texts to continue share, while nobody waits."""
        if self._kind == "continue" and not self._is_chat:
            await self._model.ainvoke(beginning(), max_tokens=1)

    async def ask(self, digest: Digest, outcomes: Sequence[CandidateOutcome], deadline: float) -> Answer:
        """Candidates for a digest, by a time of the monotonic clock. A request still under way then is cancelled.

        Raises:
            TimeoutError: there were none by then.
            BudgetReached: a limit forbids the request.
            Exception: whatever the model's library raises.
        """
        began = time.monotonic()
        callback = RequestCallback(deadline, digest.run, self._ledger)
        config: RunnableConfig = {"callbacks": [callback]}
        candidates: list[str] = []
        dropped = 0
        tried = {key(words) for words in [text.words for text in digest.best] + [outcome.words for outcome in outcomes]}
        try:
            async with asyncio.timeout(deadline - began):
                for _ in range(ROUNDS if self._kind == "continue" else 1):
                    missing = digest.num_candidates - len(candidates)
                    parsed = await self._draw(digest, outcomes, missing, tried, config)
                    candidates += parsed.candidates
                    dropped += parsed.empty + parsed.repeated
                    tried.update(map(key, parsed.candidates))
                    if len(candidates) >= digest.num_candidates:
                        break
        except (TimeoutError, BudgetReached):
            if not candidates:
                raise
        seconds = time.monotonic() - began
        return Answer(candidates, dropped, seconds, callback.tokens_in, callback.tokens_out, callback.cut)

    async def _draw(
        self,
        digest: Digest,
        outcomes: Sequence[CandidateOutcome],
        missing: int,
        tried: set[str],
        config: RunnableConfig,
    ) -> Parsed:
        """One round of requests."""
        if self._kind == "continue":
            replies = await self._continue(write("continue", digest, outcomes), missing, config)
            return parse_continuations(replies, missing, tried)
        if self._structured is not None:
            parsed = await self._ask_structured(self._structured, digest, outcomes, tried, config)
            if parsed is not None:
                return parsed
        reply = await self._invoke(self._model, write("instruct", digest, outcomes, proposer=self._proposer), config)
        if self._structured is not None:
            log.info("structured output is not supported here; reading plain replies")
            self._structured = None
        return parse_list(_text(reply), digest.num_candidates, tried)

    async def _continue(self, text: str, count: int, config: RunnableConfig) -> list[str]:
        """Continuations of a text. Requests to a chat model go one by one: a slot is one request at a time."""
        if self._is_chat:
            replies: list[Any] = []
            try:
                for _ in range(count):
                    replies.append(await self._invoke(self._model, text, config))
            except BudgetReached:
                if not replies:
                    raise
            return [_text(reply) for reply in replies]
        replies = await self._model.abatch([text] * count, config, stop=["\n"], max_tokens=LINE_TOKENS)
        return [_text(reply) for reply in replies]

    async def _ask_structured(
        self,
        model: Runnable[Any, Any],
        digest: Digest,
        outcomes: Sequence[CandidateOutcome],
        tried: set[str],
        config: RunnableConfig,
    ) -> Parsed | None:
        """Candidates from structured output; None if the request was refused, perhaps because of it."""
        text = write("instruct", digest, outcomes, structured=True, proposer=self._proposer)
        try:
            reply = await self._invoke(model, text, config)
        except (TimeoutError, BudgetReached):
            raise
        except Exception as error:
            if not is_refused(error):
                raise
            return None
        if isinstance(reply, str):  # it was cut
            return parse_list(reply, digest.num_candidates, tried)
        parsed = collect(structured_items(reply), digest.num_candidates, tried)
        return parsed if parsed.candidates else parse_list(_text(reply["raw"]), digest.num_candidates, tried)

    async def _invoke(self, model: Runnable[Any, Any], prompt: str, config: RunnableConfig) -> Any:
        """The model's reply; the text of one that OpenAI's library refuses because it was cut."""
        fit_context(self._model, prompt)
        try:
            return await model.ainvoke(prompt, config)
        except Exception as error:
            completion = getattr(error, "completion", None)
            if completion is None:
                raise
            return str(completion.choices[0].message.content or "")


def _text(reply: Any) -> str:
    """The text of a reply, without blocks of thoughts and tool calls."""
    return reply if isinstance(reply, str) else str(reply.text)
