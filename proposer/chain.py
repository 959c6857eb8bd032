"""The way from a digest to candidates: meta-prompt | model | parser."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnablePassthrough

from bus.messages import CandidateOutcome, Digest
from proposer.deadline import DeadlineCallback
from proposer.meta_prompt import Kind, beginning, write
from proposer.parsing import Parsed, key, parse_continuations, parse_list

LINE_TOKENS = 20
"""Longest continuation."""

ROUNDS = 3
"""Continuations are cheap and often repeat the list, so they are drawn again for what is missing, so many times."""


@dataclass(frozen=True)
class Answer:
    """What the LLM gave for one digest, and its cost."""

    candidates: list[str]
    dropped: int
    """Items that were empty or repetitions."""
    seconds: float
    tokens_in: int | None
    tokens_out: int | None


@dataclass(frozen=True)
class Request:
    """One request to the LLM."""

    digest: Digest
    outcomes: Sequence[CandidateOutcome]
    wanted: int
    tried: frozenset[str]
    """Keys of texts that are not wanted again."""


class ProposalChain:
    """Asks one model, from any thread."""

    def __init__(self, model: BaseLanguageModel[Any], kind: Kind) -> None:
        self._model = model
        self._kind = kind
        self._serial = isinstance(model, BaseChatModel)
        self._chain = build(model, kind)

    def warm_up(self) -> None:
        """Let a model in this process read what every text to continue begins with, while nobody waits for it."""
        if self._kind == "continue" and not self._serial:
            self._model.invoke(beginning(), max_tokens=1)

    def ask(self, digest: Digest, fates: Sequence[CandidateOutcome], deadline: float) -> Answer:
        """Candidates for a digest, by a time of the monotonic clock.

        Raises:
            TimeoutError: the time was over before there was any.
            Exception: whatever the model's library raises.
        """
        began = time.monotonic()
        deadline_callback = DeadlineCallback(deadline)
        config: RunnableConfig = {"callbacks": [deadline_callback]}
        if self._serial:
            config["max_concurrency"] = 1  # a slot is one request at a time
        candidates: list[str] = []
        dropped = 0
        tried = {key(words) for words in [text.words for text in digest.best] + [fate.words for fate in fates]}
        for _ in range(ROUNDS if self._kind == "continue" else 1):
            missing = digest.num_candidates - len(candidates)
            request = Request(digest, fates, missing, frozenset(tried))
            try:
                deadline_callback.check()
                parsed = self._chain.invoke({"request": request}, config)
            except TimeoutError:
                if candidates:
                    break
                raise
            candidates += parsed.candidates
            dropped += parsed.empty + parsed.repeated
            tried.update(map(key, parsed.candidates))
            if len(candidates) >= digest.num_candidates:
                break
        return Answer(
            candidates, dropped, time.monotonic() - began, deadline_callback.tokens_in, deadline_callback.tokens_out
        )


def build(model: BaseLanguageModel[Any], kind: Kind) -> Runnable[dict[str, Any], Parsed]:
    """The runnable from `{"request": Request}` to what was read from the model's replies."""
    asked: Runnable[Any, Any] = model
    if kind == "continue" and not isinstance(model, BaseChatModel):
        asked = model.bind(stop=["\n"], max_tokens=LINE_TOKENS)
    replies = (asked | StrOutputParser()).map()
    if kind == "continue":
        return RunnablePassthrough.assign(replies=RunnableLambda(_same_for_each) | replies) | RunnableLambda(
            _read_lines
        )
    return RunnablePassthrough.assign(replies=RunnableLambda(_one) | replies) | RunnableLambda(_read_list)


def _one(state: dict[str, Any]) -> list[str]:
    request: Request = state["request"]
    return [write("instruct", request.digest, request.outcomes)]


def _same_for_each(state: dict[str, Any]) -> list[str]:
    request: Request = state["request"]
    return [write("continue", request.digest, request.outcomes)] * request.wanted


def _read_list(state: dict[str, Any]) -> Parsed:
    request: Request = state["request"]
    return parse_list("\n".join(state["replies"]), request.wanted, request.tried)


def _read_lines(state: dict[str, Any]) -> Parsed:
    request: Request = state["request"]
    return parse_continuations(state["replies"], request.wanted, request.tried)
