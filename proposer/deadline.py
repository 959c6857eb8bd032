"""Follows requests to an LLM from inside: counts tokens, and breaks off when the time is up."""

import logging
import threading
import time
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult

# LangChain warns of whatever a callback raises, also where it is meant to come through.
logging.getLogger("langchain_core.callbacks.manager").setLevel(logging.ERROR)


class DeadlineCallback(BaseCallbackHandler):
    """A LangChain callback for the requests of one lease."""

    raise_error = True  # else LangChain only logs what a callback raises

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._lock = threading.Lock()
        self.tokens_in: int | None = None
        """None while no model has counted any."""
        self.tokens_out: int | None = None

    def check(self) -> None:
        """Raise when the deadline, in seconds of the monotonic clock, is over.

        Raises:
            TimeoutError: it is.
        """
        if time.monotonic() > self._deadline:
            raise TimeoutError("the answer took too long")

    def on_llm_new_token(self, *_: Any, **__: Any) -> None:
        """A server that sends a little now and then never times out by itself."""
        self.check()

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        """Count tokens, whichever way the model reports them."""
        with self._lock:
            for generations in response.generations:
                for generation in generations:
                    message = generation.message if isinstance(generation, ChatGeneration) else None
                    if isinstance(message, AIMessage) and message.usage_metadata:
                        self._add(message.usage_metadata["input_tokens"], message.usage_metadata["output_tokens"])
                        return
            usage = (response.llm_output or {}).get("token_usage")
            if usage:
                self._add(usage["prompt_tokens"], usage["completion_tokens"])

    def _add(self, tokens_in: int, tokens_out: int) -> None:
        self.tokens_in = (self.tokens_in or 0) + tokens_in
        self.tokens_out = (self.tokens_out or 0) + tokens_out
