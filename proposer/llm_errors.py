"""What went wrong with an LLM, in one line that says what the user can do."""

from proposer.chat_models import KEYS, one_line
from proposer.ollama import NOT_OLLAMA, no_model, wrong_server
from shared.settings import ProposerSettings


def is_timeout(error: BaseException) -> bool:
    """Whether an answer only took too long; each library has its own exception for it."""
    return isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower()


def describe(error: BaseException, settings: ProposerSettings) -> str:
    """One line, without keys."""
    provider, _, name = settings.model.partition(":")
    status = getattr(error, "status_code", None)
    if is_timeout(error):
        return "no answer in time; proposer.timeout_seconds can be raised"
    if provider == "ollama" and _is_not_ollama(error):
        return wrong_server(settings.base_url)
    if status == 404 and provider == "ollama":
        return no_model(name)
    if status in (401, 403):
        variable = KEYS.get(provider)
        return f"it refuses the key ({status}); " + (
            f"check {variable}" if variable else "check its environment variable"
        )
    if status == 429:
        return f"too many requests, or no credit left (429): {one_line(error)}"
    if "does not support thinking" in str(error):
        return f"{one_line(error)}; set proposer.thinking to auto"
    if isinstance(error, ConnectionError) or "connect" in type(error).__name__.lower():
        return f"no connection: {one_line(error)}"
    return f"{type(error).__name__}: {one_line(error)}"


def _is_not_ollama(error: BaseException) -> bool:
    """Whether a server answered what Ollama never does: another path's 404, or no JSON."""
    if getattr(error, "status_code", None) == 404:
        text = getattr(error, "error", "")
        return not isinstance(text, str) or bool(NOT_OLLAMA.match(text))
    return type(error).__name__ in ("JSONDecodeError", "ValidationError", "AttributeError")
