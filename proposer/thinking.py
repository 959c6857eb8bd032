"""Maps `proposer.thinking` to what each provider calls it."""

from collections.abc import Mapping
from typing import Any

from shared.settings import ProposerSettings

THINKING_TOKENS = {"low": 1024, "medium": 4096, "high": 16_384}
"""Tokens allowed for thoughts; 1024 is the least that Anthropic takes."""


def answer_tokens(settings: ProposerSettings) -> int:
    """Maximum length of a reply: providers count thoughts as part of it."""
    return settings.max_tokens + THINKING_TOKENS.get(settings.thinking, 0)


def ollama_reasoning(thinking: str) -> bool | str | None:
    """ChatOllama's `reasoning`."""
    return {"auto": None, "off": False}.get(thinking, thinking)


def openai_options(settings: ProposerSettings, profile: Mapping[str, Any]) -> dict[str, Any]:
    """ChatOpenAI's options. `profile` is what LangChain knows of the model; nothing for most servers' own models.

    Compatible servers (vLLM, SGLang, llama.cpp) switch thinking off in the chat template.
    """
    if settings.thinking != "off":
        return {"reasoning_effort": settings.thinking}
    if settings.base_url:
        return {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
    if profile.get("reasoning_output") is False:
        return {}
    levels = profile.get("reasoning_effort_levels") or (["low"] if profile else ["none"])
    return {"reasoning_effort": levels[0]}


def anthropic_options(settings: ProposerSettings, profile: Mapping[str, Any]) -> dict[str, Any]:
    """ChatAnthropic's options. Newer models take an effort, the others a number of tokens."""
    if settings.thinking == "off":
        return {"thinking": {"type": "disabled"}}
    if profile.get("reasoning_effort_levels"):
        return {"effort": settings.thinking, "temperature": 1.0}
    budget = THINKING_TOKENS[settings.thinking]
    return {"thinking": {"type": "enabled", "budget_tokens": budget}, "temperature": 1.0}  # the only one allowed
