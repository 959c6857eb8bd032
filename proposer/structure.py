"""Structured output: the provider makes the model answer in JSON that fits a schema."""

import re
import warnings
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

from proposer.parsing import field_items

SCHEMA = {
    "title": "Prompts",
    "description": "The proposed prompts.",
    "type": "object",
    "properties": {"prompts": {"type": "array", "items": {"type": "string"}}},
    "required": ["prompts"],
    "additionalProperties": False,
}

METHODS = {"ChatOllama": "json_schema", "ChatOpenAI": "json_schema", "ChatAnthropic": "function_calling"}
"""Ollama's format, OpenAI's response_format, Anthropic's tools; other providers have a default of their own."""

REFUSED = frozenset({400, 422, 501})
"""HTTP statuses of servers that do not support what a request asks for."""

ABOUT_STRUCTURE = re.compile(r"format|schema|grammar|structured|tool|json", re.IGNORECASE)


def with_structure(model: BaseChatModel) -> Runnable[Any, Any] | None:
    """The model with structured output; None if its library has none for it."""
    options: dict[str, Any] = {}
    if type(model).__name__ in METHODS:
        options["method"] = METHODS[type(model).__name__]
    thinking = getattr(model, "thinking", None) or {}
    if type(model).__name__ == "ChatAnthropic" and (
        thinking.get("type") in ("enabled", "adaptive") or getattr(model, "reasoning_effort", None)
    ):
        options["method"] = "json_schema"  # a model that thinks cannot be made to call a tool
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # langchain-anthropic warns of models that may not call the tool
            return model.with_structured_output(SCHEMA, include_raw=True, **options)
    except (NotImplementedError, ValueError, TypeError, ImportError):
        return None


def is_refused(error: Exception) -> bool:
    """Whether a request failed because of its structure, so that it may succeed without."""
    if isinstance(error, OutputParserException | NotImplementedError):
        return True
    status = getattr(error, "status_code", None)
    return status in REFUSED or (status in (-1, 500) and bool(ABOUT_STRUCTURE.search(str(error))))


def structured_items(reply: dict[str, Any]) -> list[str]:
    """The prompts of a structured reply; none if the model answered in another way."""
    if reply["parsed"] is not None:
        return field_items(reply["parsed"])
    raw = reply["raw"]
    calls = raw.tool_calls if isinstance(raw, AIMessage) else []
    return [item for call in calls for item in field_items(call["args"])]
