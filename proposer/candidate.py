"""One item of a list, as an LLM wrote it, turned into a candidate: its words on one line."""

import re
from collections.abc import Callable
from functools import partial

from shared.text import clean, cut

LONGEST = 200
"""Characters in a candidate."""

ROUNDS = 16
"""Layers of quotes, markers and forms around one item; what has more is not a phrase."""

NOUNS = "prompt|phrase|template|candidate|proposal|option|suggestion|idea"
NAMES = rf"(?:(?:new|proposed|final)\s)?(?:{NOUNS}|text|words)"

PICTURE = r"[\u2190-\u21ff\u2600-\u27bf\u2b00-\u2bff\U0001f300-\U0001faff]\ufe0f?"
"""An arrow, sign or emoji, with which LLMs begin the lines of a list."""

MARKER = re.compile(
    r"^(?:(?:[(\[*#]{0,3}\d{1,3}\s?(?:[.):\]](?=[^\W\d])|[.):\]]\*{0,2}(?:\s+|$)|[、。]|-\s)"
    r"|(?:[-*+\u2022\u2023\u25e6\u00b7\u25aa\u25cf\u25cb>#]+|\(?[A-Za-z]\)|\[[ xX]\]|\\item)(?:\s+|$)"
    rf"|[\u2022\u2023\u25e6\u25aa\u25cf\u25cb]|{PICTURE})\s*)+"
)
NAME = re.compile(rf"^\W{{0,3}}{NAMES}[\s_-]?#?\d{{0,3}}\W{{0,3}}[:=]\W{{0,2}}\s*", re.IGNORECASE)
LOSS_BEFORE = re.compile(r"^\W{0,3}loss\W{0,5}\d+(?:\.\d+)?[\s,;:|)\]*-]{1,8}(?=[^\W\d])", re.IGNORECASE)
LOSS_AFTER = re.compile(
    r"(?:(?<![\s(\[,;-])[\s(\[,;-]+)?\bloss\s?(?:[:=]\s?\d.*|\d[\d.]*\W{0,4})$"  # "loss 24 hours" is a phrase's
    r"|\s?[(\[,;-]\s?loss\s?\d.*$",
    re.IGNORECASE,
)
QUOTED = re.compile(
    r"""^(?:"([^"]+)"|«([^«»]+)»|`([^`]+)`|'([^']+)'|\*\*([^*]+)\*\*|「([^「」]+)」|『([^『』]+)』)(?=$|\s*[-:(,.;])"""
)
WRAPPED = re.compile(r"^(?:\[([^\[\]]+)\]|\{([^{}]+)\}|<([^<>]+)>|\(([^()]+)\))$")
FORMATTING = re.compile(r"</?(?:b|i|em|strong|code|u|span|br|sub|sup|mark|p)(?:\s[^<>]{0,100})?/?>", re.IGNORECASE)
PLACEHOLDER = re.compile(r"\s?(?:\[[^\[\]]*\]|\{[^{}]*\}|<[^<>]*>|(?<!_)_{2,})$")
LABEL = re.compile(r"[\s\"'`]*[\[({<]{1,2}\s?(?:the )?labels?\b.*$", re.IGNORECASE)
"""The place of the label in a template, and what follows it."""
EDGES = ' "«»`*_~'
END_MARKS = " .,;:…!|/\\=-([{<"


def key(text: str) -> str:
    """What two texts share that differ only in case and space."""
    return " ".join(text.casefold().split())


def to_candidate(item: str) -> str:
    """The words of an item, without list markers, quotes and forms around them; "" if there are none."""
    text = clean(item[: 2 * LONGEST])
    for _ in range(ROUNDS):
        shorter = text
        for step in STEPS:
            shorter = step(shorter)
        if shorter == text:
            return text if any(char.isalpha() for char in text) else ""
        text = shorter
    return ""


def _unquote(text: str) -> str:
    match = QUOTED.match(text) or WRAPPED.match(text)
    return next(group for group in match.groups() if group) if match else text


def _trim(text: str) -> str:
    text = text.strip(EDGES).rstrip(END_MARKS)
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1]
    return text


STEPS: tuple[Callable[[str], str], ...] = (
    partial(FORMATTING.sub, " "),
    partial(MARKER.sub, "", count=1),
    partial(LOSS_BEFORE.sub, "", count=1),
    partial(NAME.sub, "", count=1),
    _unquote,
    partial(LOSS_AFTER.sub, ""),
    partial(LABEL.sub, ""),
    partial(PLACEHOLDER.sub, ""),
    _trim,
    partial(cut, longest=LONGEST),
    clean,
)
