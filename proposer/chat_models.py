"""Makes a LangChain model from a spec such as `embedded` or `openai:gpt-4o-mini`.

Keys are read from the environment by the providers' own libraries, and nowhere else.
"""

import os
import re
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from pydantic import ValidationError

from proposer.meta_prompt import Kind
from proposer.redaction import redact
from proposer.thinking import answer_tokens, anthropic_options, ollama_reasoning, openai_options
from shared.errors import UserError
from shared.settings import ProposerSettings
from shared.text import clean, cut

EXTRAS = {"langchain_openai": "openai", "langchain_anthropic": "anthropic"}
"""Extras of this package by the module that they install."""

KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}

LIBGOMP = "the system library libgomp.so.1: apt-get install libgomp1, or your system's package of GCC's OpenMP"

NO_KEY = "none"
"""Sent to a compatible server when there is no key; the libraries insist on one."""

OLLAMA_PATH = re.compile(r"/(?:v1|api)(?:/.*)?/?$")
"""The end of an address that names a protocol of Ollama's instead of the server."""


def choose_kind(settings: ProposerSettings) -> Kind:
    """The meta-prompt for a model: small embedded ones cannot follow instructions, but they can continue a list."""
    if settings.prompt_style != "auto":
        return settings.prompt_style
    return "continue" if _split(settings.model)[0] == "embedded" else "instruct"


def make_model(settings: ProposerSettings) -> BaseLanguageModel[Any]:
    """The model that `settings.model` names.

    Raises:
        UserError: it names none, or a package, a key or a file is missing.
    """
    provider, name = _split(settings.model)
    if not name:
        raise UserError(f"proposer.model {settings.model!r} names no model; write for example ollama:llama3.2")
    _check_applicable(settings, provider)
    if provider == "embedded":
        return _embedded(settings, name)
    if provider == "ollama":
        return _ollama(settings, name)
    return _hosted(settings, provider)


def _check_applicable(settings: ProposerSettings, provider: str) -> None:
    """Refuse settings that would have no effect on this provider's models."""
    if provider != "ollama":
        for name in ("pull", "keep_alive", "num_ctx"):
            if name in settings.model_fields_set and getattr(settings, name) not in (None, False):
                raise UserError(f"proposer.{name} is for Ollama; proposer.model is {settings.model!r}")
    if provider == "embedded" and settings.base_url:
        raise UserError(
            f"proposer.base_url has no effect on proposer.model {settings.model!r}, which is in this process"
        )
    if settings.thinking != "auto" and provider not in ("ollama", "openai", "anthropic"):
        raise UserError(
            f"proposer.thinking is for ollama, openai and anthropic; with proposer.model {settings.model!r} leave it "
            "at auto"
        )


def _split(spec: str) -> tuple[str, str]:
    if spec == "embedded":
        return spec, "packaged"
    provider, colon, name = spec.partition(":")
    return (provider, name) if colon else ("", spec)


def _embedded(settings: ProposerSettings, name: str) -> BaseLanguageModel[Any]:
    try:
        from proposer.embedded import Embedded, packaged_model
    except ImportError as error:
        if "libgomp" in str(error):
            raise UserError(f"the embedded model needs {LIBGOMP}") from None
        raise _missing(error, "xllamacpp", "embedded") from None
    path = packaged_model() if settings.model == "embedded" else Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"proposer.model {settings.model!r}: no such file: {path}")
    return Embedded(
        path,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
        chat=choose_kind(settings) == "instruct",
    )


def _ollama(settings: ProposerSettings, name: str) -> BaseLanguageModel[Any]:
    if settings.base_url and OLLAMA_PATH.search(settings.base_url):
        root = redact(OLLAMA_PATH.sub("", settings.base_url))
        raise UserError(
            f"proposer.base_url {redact(settings.base_url)}: Ollama's address ends before the path; write {root}, or "
            f"use --model openai:{name} with an address that ends in /v1"
        )
    try:
        from langchain_ollama import ChatOllama  # makes a client when it is imported, which reads proxies

        return ChatOllama(
            model=name,
            base_url=settings.base_url,  # without one, the library reads $OLLAMA_HOST
            temperature=settings.temperature,
            num_predict=answer_tokens(settings),
            num_ctx=settings.num_ctx,
            keep_alive=_keep_alive(settings.keep_alive),
            reasoning=ollama_reasoning(settings.thinking),
            seed=settings.seed,
            client_kwargs={"timeout": settings.timeout_seconds},
        )
    except Exception as error:
        raise UserError(_explain(settings.model, error)) from None


def _keep_alive(text: str | None) -> int | str | None:
    """Ollama takes a number of seconds, or a text with a unit."""
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else text


def _hosted(settings: ProposerSettings, provider: str) -> BaseLanguageModel[Any]:
    options: dict[str, Any] = {
        "temperature": settings.temperature,
        "max_tokens": answer_tokens(settings),
        "timeout": settings.timeout_seconds,
        "max_retries": 0,  # the agent backs off itself; retries of a library would use up the lease unseen
    }
    if settings.base_url:
        options["base_url"] = settings.base_url
        if provider in KEYS and not os.environ.get(KEYS[provider]):
            options["api_key"] = NO_KEY
    if settings.seed is not None and provider == "openai":
        options["seed"] = settings.seed
    try:
        from langchain.chat_models import init_chat_model

        model: BaseChatModel = init_chat_model(settings.model, **options)
        if settings.thinking != "auto":
            of_provider = openai_options if provider == "openai" else anthropic_options
            options |= of_provider(settings, dict(model.profile or {}))
            model = init_chat_model(settings.model, **options)
    except ImportError as error:
        if "socksio" in str(error):
            raise UserError(_explain(settings.model, error)) from None
        raise _missing(error, *_package(error)) from None
    except Exception as error:  # each library has its own exceptions for wrong settings
        raise UserError(_explain(settings.model, error)) from None
    _check_key(model, options)
    return model


def _check_key(model: BaseChatModel, options: dict[str, Any]) -> None:
    """Anthropic's library notices a missing key only when it is used."""
    key = KEYS["anthropic"]
    if type(model).__name__ == "ChatAnthropic" and "api_key" not in options and not os.environ.get(key):
        raise UserError(f"the model needs a key in the environment variable {key}")


def _explain(spec: str, error: Exception) -> str:
    if isinstance(error, ValidationError):
        return f"proposer.model {spec!r}: " + "; ".join(redact(detail["msg"]) for detail in error.errors())
    text = str(error)
    if "SOCKS" in text and "socksio" in text:
        return "a proxy in the environment (ALL_PROXY, HTTPS_PROXY or HTTP_PROXY) is SOCKS: pip install socksio"
    known = re.search(r"[Ss]upported (?:model )?providers(?: are)?: (.+)", text)
    if known:
        return f"proposer.model {spec!r} has no known provider; known: embedded, {known[1].strip().rstrip('.')}"
    key = re.search(r"\b[A-Z][A-Z0-9_]*_(?:API_KEY|TOKEN)\b", text)
    if key:
        return f"proposer.model {spec!r} needs a key in the environment variable {key[0]}"
    return f"proposer.model {spec!r}: {one_line(error)}"


def _package(error: ImportError) -> tuple[str, str | None]:
    """The package that init_chat_model misses, and the extra that installs it."""
    found = re.search(r"pip install ([A-Za-z0-9-]+)", str(error))
    package = found[1] if found else error.name or "a package"
    return package, EXTRAS.get(package.replace("-", "_"))


def _missing(error: ImportError, package: str, extra: str | None) -> UserError:
    install = f"pip install 'tandem-tuning[{extra}]'" if extra else f"pip install {package}"
    broken = f" ({one_line(error)})" if error.name and error.name not in package.replace("-", "_") else ""
    return UserError(f"the model needs the package {package}: {install}{broken}")


def one_line(error: BaseException) -> str:
    """What an exception says, on one short line, without keys."""
    return cut(clean(redact(str(error)[:2000])), 160) or type(error).__name__
