"""llama.cpp's server engine in this process: tokens in, replies out."""

import contextlib
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import xllamacpp

from shared.errors import UserError

THREADS = 1
"""llama.cpp's threads wait for each other in a busy loop: with two on cores that a trainer keeps busy, a reply takes
many times longer than with one, and on idle cores it takes two thirds of the time."""

REPLIES = 16
"""Most replies to one prompt at once. They share its key-value cache and take little more time than one."""

BATCH = 128
"""Prompt tokens read between two calls of `follow`."""

SECONDS = 60
"""Timeout of a request for tokens, which takes milliseconds unless the machine hangs."""

_open = build_opener(ProxyHandler({})).open


class LlamaServer:
    """A GGUF model of llama.cpp.

    Not for several threads at once: requests in parallel change each other's replies in the last digits of the
    logits. Fork no process after loading: the child lacks the threads that serve requests.
    """

    def __init__(self, path: Path, context: int) -> None:
        """Load a model with room for `context` tokens of prompt and replies.

        Raises:
            UserError: llama.cpp cannot load the file.
        """
        self._key = secrets.token_urlsafe(32)
        try:
            self._server = xllamacpp.Server(_params(path, context, self._key))
        except RuntimeError as error:
            raise UserError(f"{path}: llama.cpp cannot load it ({error})") from None

    def tokenize(self, text: str, *, special: bool = False, begin: bool = False) -> list[int]:
        """The tokens of a text; `special` reads names of special tokens as such, `begin` puts the model's BOS first."""
        body = {"content": text, "parse_special": special, "add_special": begin}
        tokens: list[int] = self._post("/tokenize", body)["tokens"]
        return tokens

    def chat_frame(self) -> tuple[str, str]:
        """What the model's chat template writes before and after the message of a user."""
        message = secrets.token_hex(16)
        body = {"messages": [{"role": "user", "content": message}]}
        before, _, after = self._post("/apply-template", body)["prompt"].partition(message)
        return before, after

    def complete(
        self, tokens: list[int], n: int, options: dict[str, Any], follow: Callable[[], None]
    ) -> tuple[list[str], int]:
        """`n` replies to one prompt, and the number of tokens in all of them.

        `follow` is called after each batch of prompt tokens and each token of a reply; what it raises ends the
        request and comes through.

        Raises:
            RuntimeError: llama.cpp refuses the request, for example because the prompt is too long.
        """
        if n > 1:  # replies wait with the caches of earlier prompts, which only then make room for this one
            self._stream({"prompt": tokens, "max_tokens": 1}, follow)
        texts = [""] * n
        used = 0
        for chunk in self._stream({"prompt": tokens, "n": n, **options}, follow):
            for choice in chunk["choices"]:
                texts[choice["index"]] += choice["text"]
                if choice["finish_reason"]:
                    used += chunk["timings"]["predicted_n"]
        return texts, used

    def _stream(self, body: dict[str, Any], follow: Callable[[], None]) -> list[dict[str, Any]]:
        chunks: list[dict[str, Any]] = []
        raised: list[BaseException] = []

        def take(chunk: dict[str, Any]) -> bool:
            """Keep a chunk; true breaks off. Exceptions must not leave it: they would be lost or end the process."""
            try:
                chunks.append(chunk)
                follow()
            except BaseException as error:
                raised.append(error)
            return bool(raised)

        self._server.handle_completions({**body, "stream": True, "return_progress": True}, take)
        if raised:
            raise raised[0]
        for chunk in chunks:
            if "error" in chunk:
                raise RuntimeError(chunk["error"]["message"])
        return chunks

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {self._key}"}
        request = Request(self._server.listening_address + route, json.dumps(body).encode(), headers)
        with contextlib.closing(_open(request, timeout=SECONDS)) as answer:
            return json.load(answer)


def _params(path: Path, context: int, key: str) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context
    params.n_batch = BATCH
    params.n_parallel = REPLIES
    params.kv_unified = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.cache_ram_mib = 0  # else it keeps up to 8 GiB of earlier prompts
    params.verbosity = -1
    params.api_keys = [key]  # it listens on a port of loopback, where any user and any web page could ask
    params.cors_origins = ""
    params.ui = False
    return params
