"""What LLMs really send, turned into candidates.

A candidate is one clean line with at least one letter. Its text is data: it is never evaluated or
formatted into anything. Reading a numbered list of candidates gives the same candidates again.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shared.text import clean, cut

LONGEST = 200
"""Characters in a candidate."""

LONGEST_REPLY = 20_000
"""Characters of a reply that are looked at; 64 of the longest candidates fit."""

KEYS = ("prompt", "phrase", "text", "words", "candidate")

THOUGHTS = re.compile(r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
THOUGHTS_END = re.compile(r".*</(?:think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
FENCE = re.compile(r"^\s*(?:```|~~~).*$", re.MULTILINE)
JSON_START = re.compile(r"^\s*([\[{])", re.MULTILINE)

NUMBERED = re.compile(r"^\W{0,6}\d{1,3}\s?[.):\]]\W{0,4}\s")
BULLET = re.compile(r"^\s*[-*+\u2022\u2023\u25e6\u00b7\u2013\u2014]\s")
MARKER = re.compile(r"^(?:[(\[*]{0,3}\d{1,3}\s?[.):\]]\*{0,2}|[-*+\u2022\u2023\u25e6\u00b7>#]+|\(?[A-Za-z]\))(?:\s+|$)")
NAME = re.compile(r"^\W{0,3}(?:prompt|phrase|candidate)\s?\d{0,3}\W{0,3}:\W{0,2}\s*", re.IGNORECASE)
LOSS = re.compile(r"[\s(\[,;-]*\bloss\s*[:=]?\s*\d.*$", re.IGNORECASE)
QUOTED = re.compile(r"""^(?:"([^"]+)"|«([^«»]+)»|`([^`]+)`|'([^']+)'|\*\*([^*]+)\*\*)(?=$|\s*[-:(,.;])""")
PLACEHOLDER = re.compile(r"\s*(?:\[[^\[\]]*\]|\{[^{}]*\}|<[^<>]*>|_{2,})$")
EDGES = ' "«»`*_~'
END_MARKS = " .,;:…!|/\\=-"
CHATTER = re.compile(
    r"^(?:sure|certainly|of course|absolutely|okay|ok|great|alright|here (?:are|is)|here's|i hope|i'm|i can|i will"
    r"|let me|let's|note|please|these (?:are|prompts|phrases)|as an ai|feel free|below)\b|:$",
    re.IGNORECASE,
)


@dataclass
class Parsed:
    """The candidates of a reply and what was dropped from it."""

    candidates: list[str] = field(default_factory=list)
    empty: int = 0
    """Items without a word."""
    repeated: int = 0
    """Items that were there before, or were tried before."""


def key(text: str) -> str:
    """What two texts share that differ only in case and space."""
    return " ".join(text.casefold().split())


def parse_list(reply: str, wanted: int, tried: Collection[str] = ()) -> Parsed:
    """Candidates from a chat model's reply: a list in whatever form, among whatever else.

    Args:
        reply: the text as it came.
        wanted: most candidates to give.
        tried: keys of texts that are not wanted again.
    """
    text = THOUGHTS_END.sub("", THOUGHTS.sub("", reply[:LONGEST_REPLY]))
    text = FENCE.sub("", text)
    return _collect(_json_items(text) or _line_items(text), wanted, tried)


def parse_continuations(replies: Iterable[str], wanted: int, tried: Collection[str] = ()) -> Parsed:
    """Candidates from texts that go on where a list broke off, one each."""
    return _collect([reply[:LONGEST_REPLY].strip().partition("\n")[0] for reply in replies], wanted, tried)


def _collect(items: Iterable[str], wanted: int, tried: Collection[str]) -> Parsed:
    parsed = Parsed()
    known = set(tried)
    for item in items:
        candidate = _candidate(item)
        if not candidate:
            parsed.empty += 1
        elif key(candidate) in known:
            parsed.repeated += 1
        elif len(parsed.candidates) < wanted:
            known.add(key(candidate))
            parsed.candidates.append(candidate)
    return parsed


def _json_items(text: str) -> list[str]:
    """Strings of every JSON value that begins a line."""
    decoder = json.JSONDecoder()
    items: list[str] = []
    end = 0
    for match in list(JSON_START.finditer(text))[:64]:
        if match.start(1) < end:
            continue  # inside the last value
        try:
            value, end = decoder.raw_decode(text, match.start(1))
        except (ValueError, RecursionError):
            continue
        items.extend(_strings(value))
    return items


def _strings(value: Any, depth: int = 0) -> list[str]:
    if isinstance(value, str):
        return [value]
    if depth > 3:
        return []
    if isinstance(value, list):
        return [text for item in value for text in _strings(item, depth + 1)]
    if isinstance(value, dict):
        named = [value[name] for name in KEYS if isinstance(value.get(name), str)]
        return named[:1] or [
            text for item in value.values() if isinstance(item, list) for text in _strings(item, depth + 1)
        ]
    return []


def _line_items(text: str) -> list[str]:
    """Numbered lines; else bulleted ones; else the lines that are neither chatter nor prose."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for listed in (NUMBERED, BULLET):
        items = [line for line in lines if listed.match(line)]
        if items:
            return items
    return [line for line in lines if len(line) <= LONGEST and not CHATTER.search(line)]


def _candidate(item: str) -> str:
    """The words of an item, without what lists, quotes and forms put around them; "" if there are none.

    Each step shortens the text or leaves it, so that the loop ends where nothing is left to take off.
    """
    text = clean(item[: 4 * LONGEST])
    while True:
        shorter = text
        for step in STEPS:
            shorter = step(shorter)
        if shorter == text:
            break
        text = shorter
    return text if any(char.isalpha() for char in text) else ""


def _unquote(text: str) -> str:
    match = QUOTED.match(text)
    return next(group for group in match.groups() if group) if match else text


def _trim(text: str) -> str:
    text = text.strip(EDGES).rstrip(END_MARKS)
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1]
    return text


STEPS: tuple[Callable[[str], str], ...] = (
    partial(MARKER.sub, "", count=1),
    partial(NAME.sub, "", count=1),
    _unquote,
    partial(LOSS.sub, ""),
    partial(PLACEHOLDER.sub, ""),
    _trim,
    partial(cut, longest=LONGEST),
    clean,
)
