"""Follows the requests of one lease from inside: counts and charges tokens, notes cut replies, keeps the deadline."""

import logging
import time
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from proposer.budget import Reservation
from proposer.ledger import Ledger

# LangChain logs every exception of a callback, also those that are meant to propagate.
logging.getLogger("langchain_core.callbacks.manager").setLevel(logging.ERROR)

BYTES_PER_TOKEN = 3
"""Estimate for models that do not count tokens; most texts have more bytes in a token."""

CUT = frozenset({"length", "max_tokens", "model_length"})
"""What providers call the end of a reply that reached its maximum length."""


class RequestCallback(BaseCallbackHandler):
    """A LangChain callback for the requests of one lease. Its methods may run in any thread."""

    raise_error = True  # else LangChain only logs what a callback raises
    run_inline = True

    def __init__(self, deadline: float, run: str, ledger: Ledger | None = None) -> None:
        self._deadline = deadline
        self._run = run
        self._ledger = ledger
        self._under_way: dict[UUID, tuple[Reservation | None, int]] = {}
        """By LangChain's id: what was charged, and the estimated tokens of the meta-prompt."""
        self.tokens_in: int | None = None
        """None while no model has counted any."""
        self.tokens_out: int | None = None
        self.cut = False
        """A reply was cut at its maximum length."""

    def on_llm_start(self, serialized: Any, prompts: list[str], *, run_id: UUID, **_: Any) -> None:  # noqa: ARG002
        """Charge a request to a completion model."""
        self._start(run_id, sum(len(prompt.encode()) for prompt in prompts))

    def on_chat_model_start(
        self,
        serialized: Any,  # noqa: ARG002 - named by the library
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **_: Any,
    ) -> None:
        """Charge a request to a chat model."""
        self._start(run_id, sum(len(str(message.content).encode()) for batch in messages for message in batch))

    def on_llm_new_token(self, *_: Any, **__: Any) -> None:
        """Stop a model in this process when the time is up; nothing else can.

        Raises:
            TimeoutError: it is.
        """
        if time.monotonic() > self._deadline:
            raise TimeoutError("the answer took too long")

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Count tokens, whichever way the model reports them."""
        generations = [generation for batch in response.generations for generation in batch]
        self.cut = self.cut or any(map(_is_cut, generations))
        for generation in generations:
            message = generation.message if isinstance(generation, ChatGeneration) else None
            if isinstance(message, AIMessage) and message.usage_metadata:
                self._count(run_id, message.usage_metadata["input_tokens"], message.usage_metadata["output_tokens"])
                return
        usage = (response.llm_output or {}).get("token_usage")
        if usage:
            self._count(run_id, usage["prompt_tokens"], usage["completion_tokens"])
        elif usage is not None:  # one of several prompts; LangChain gives the first the usage of all
            self._settle(run_id, 0, 0)
        else:
            length = sum(len(generation.text.encode()) for generation in generations)
            self._settle(run_id, None, length // BYTES_PER_TOKEN + 1)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """A reply that OpenAI's library refuses, because it was cut, has its usage in the error.

        A refusal costs nothing; other failures stay charged as reserved, because what they cost is unknown.
        """
        completion = getattr(error, "completion", None)
        if isinstance(error, ConnectionError) or getattr(error, "status_code", 0) >= 400:
            self._settle(run_id, 0, 0)
        if completion is not None:
            self.cut = True
            if completion.usage:
                self._count(run_id, completion.usage.prompt_tokens, completion.usage.completion_tokens)

    def _count(self, run_id: UUID, tokens_in: int, tokens_out: int) -> None:
        self.tokens_in = (self.tokens_in or 0) + tokens_in
        self.tokens_out = (self.tokens_out or 0) + tokens_out
        self._settle(run_id, tokens_in, tokens_out)

    def _start(self, run_id: UUID, length: int) -> None:
        reservation = self._ledger.start(self._run) if self._ledger else None
        self._under_way[run_id] = (reservation, length // BYTES_PER_TOKEN + 1)

    def _settle(self, run_id: UUID, tokens_in: int | None, tokens_out: int) -> None:
        """Charge the ledger; None is the estimate of the meta-prompt."""
        reservation, estimate = self._under_way.pop(run_id, (None, 0))
        if self._ledger and reservation:
            self._ledger.settle(reservation, estimate if tokens_in is None else tokens_in, tokens_out)


def _is_cut(generation: Generation) -> bool:
    info = dict(generation.generation_info or {})
    if isinstance(generation, ChatGeneration):
        info.update(generation.message.response_metadata)
    return any(info.get(name) in CUT for name in ("finish_reason", "done_reason", "stop_reason"))
