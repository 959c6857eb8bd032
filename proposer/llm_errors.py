"""What went wrong with an LLM, in one line that says what the user can do."""

from proposer.chat_models import KEYS, one_line


def is_timeout(error: BaseException) -> bool:
    """Whether an answer only took too long; each library has its own exception for it."""
    return isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower()


def describe(error: BaseException, spec: str) -> str:
    """One line, without keys."""
    provider, _, name = spec.partition(":")
    status = getattr(error, "status_code", None)
    if is_timeout(error):
        return "no answer in time; proposer.timeout_seconds can be raised"
    if status == 404 and provider == "ollama":
        return f"Ollama has no model {name!r}; get it with: ollama pull {name}"
    if status in (401, 403):
        variable = KEYS.get(provider)
        return f"it refuses the key ({status}); " + (
            f"check {variable}" if variable else "check its environment variable"
        )
    if status == 429:
        return f"too many requests, or no credit left (429): {one_line(error)}"
    if isinstance(error, ConnectionError) or "connect" in type(error).__name__.lower():
        return f"no connection: {one_line(error)}"
    return f"{type(error).__name__}: {one_line(error)}"
