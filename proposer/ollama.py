"""What Ollama needs beyond LangChain's client: a check at start, downloads, a context that is long enough."""

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any

from proposer.redaction import redact
from shared.settings import ProposerSettings

if TYPE_CHECKING:
    import ollama  # at run time only where it is needed: it makes a client when it is imported, which reads proxies

log = logging.getLogger(__name__)

CHECK_SECONDS = 10.0
RETRY_SECONDS = 5.0

BYTES_PER_TOKEN = 2
"""At least, in a meta-prompt with its many numbers. Ollama silently drops the beginning of what is too long."""

CONTEXT_STEP = 2048
"""The context grows in these steps, because Ollama loads the model again for each change."""

NOT_OLLAMA = re.compile(r"\s*(?:<|\{|404|not found)", re.IGNORECASE)
"""Error texts of servers other than Ollama for a path that they do not have."""


def address(base_url: str | None) -> str:
    """The server's address, as a line may show it."""
    return redact(base_url or "$OLLAMA_HOST or http://127.0.0.1:11434")


def wrong_server(base_url: str | None) -> str:
    """What to do where something other than Ollama answers."""
    return (
        f"{address(base_url)} does not answer as Ollama does; correct proposer.base_url, or, for a server with "
        "OpenAI's protocol, use --model openai:NAME and an address that ends in /v1"
    )


def no_model(name: str) -> str:
    """What to do where Ollama lacks a model."""
    return f"Ollama has no model {name!r}; get it with: ollama pull {name}"


def fit_context(model: Any, prompt: str) -> None:
    """Raise a ChatOllama's `num_ctx` to what a meta-prompt and its answer need; leave other models alone."""
    if type(model).__name__ != "ChatOllama":
        return
    need = len(prompt.encode()) // BYTES_PER_TOKEN + (model.num_predict or 0)
    if need > (model.num_ctx or 0):
        model.num_ctx = -(-need // CONTEXT_STEP) * CONTEXT_STEP


async def check(settings: ProposerSettings, name: str) -> str | None:
    """Whether Ollama answers and has the model; a line that says what is wrong, or None.

    With `settings.pull`, waits for Ollama and downloads a model that it lacks.
    """
    import ollama

    client = ollama.AsyncClient(host=settings.base_url)
    down = f"no connection to Ollama at {address(settings.base_url)}; start it with: ollama serve"
    trouble = await _look(client, settings, name, down)
    if not settings.pull:
        return trouble
    if trouble == down:
        log.warning("%s; waiting for it", down)
    while trouble == down:
        await asyncio.sleep(RETRY_SECONDS)
        trouble = await _look(client, settings, name, down)
    return await _pull(client, name) if trouble == no_model(name) else trouble


async def _look(client: "ollama.AsyncClient", settings: ProposerSettings, name: str, down: str) -> str | None:
    import httpx
    import ollama

    try:
        async with asyncio.timeout(CHECK_SECONDS):
            # the package has no method for the version
            answer = await client._request_raw("GET", "/api/version")  # type: ignore[no-untyped-call]
            version = answer.json()["version"]
            log.info("Ollama %s at %s", str(version)[:40], address(settings.base_url))
            models = (await client.list()).models
    except (ConnectionError, httpx.HTTPError, TimeoutError):
        return down
    except (ollama.ResponseError, ValueError, KeyError, TypeError):
        return wrong_server(settings.base_url)
    wanted = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    return None if wanted.lower() in {(model.model or "").lower() for model in models} else no_model(name)


async def _pull(client: "ollama.AsyncClient", name: str) -> str | None:
    """Download a model; a line that says why that failed, or None."""
    import httpx
    import ollama

    said = -1
    try:
        async for progress in await client.pull(name, stream=True):
            tenths = 10 * (progress.completed or 0) // progress.total if progress.total else -1
            if tenths != said and tenths >= 0:
                log.info("pulling %s: %d%% of %.2f GB", name, 10 * tenths, (progress.total or 0) / 1e9)
            said = tenths
    except (ollama.ResponseError, ConnectionError, httpx.HTTPError, ValueError) as error:
        return f"Ollama cannot pull {name!r}: {redact(str(error))[:200]}"
    log.info("pulled %s", name)
    return None
