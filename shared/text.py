"""Untrusted text: cleaned, cut, and made safe to print."""

import json
import re
import unicodedata

# What steers chat models; neither an LLM's reply nor a candidate may pass it on.
CONTROL_TOKENS = re.compile(
    r"<\|[^|<>]{0,40}\|>|</?(?:s|think|thinking|thought|reasoning|start_of_turn|end_of_turn)>|\[/?INST\]", re.IGNORECASE
)

CREDENTIALS = re.compile(r"://[^\s\"']*@")

PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})
"""Typographic quotes and dashes to those of a keyboard."""


def clean(text: str) -> str:
    """The text on one line: NFKC, plain quotes, single spaces, no control or format characters, no chat tokens."""
    for _ in range(8):  # removing a token can join the text around it into another one
        cleaner = " ".join(
            CONTROL_TOKENS.sub(" ", _without_controls(unicodedata.normalize("NFKC", text).translate(PLAIN))).split()
        )
        if cleaner == text:
            return text
        text = cleaner
    return " ".join("".join(char for char in text if char not in "<>[]").split())


def cut(text: str, longest: int) -> str:
    """At most `longest` characters, cut between two words if there are two."""
    if len(text) <= longest:
        return text
    head, space, _ = text[: longest + 1].rpartition(" ")
    return head if space else text[:longest]


def printable(text: str) -> str:
    """The text on one line with a blank for each control, format or private character, so that a terminal can show it.

    Escape sequences and bidirectional controls lose their effect; line breaks and tabs become blanks.
    """
    return "".join(char if char.isprintable() else " " for char in text)


def hide_credentials(text: str) -> str:
    """The text with `[hidden]` for the user and password of each address in it."""
    return CREDENTIALS.sub("://[hidden]@", text)


def escape_json(text: str) -> str:
    """JSON with an escape for each character that `printable` replaces; it still says the same."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _without_controls(text: str) -> str:
    return "".join(_plain(char) for char in text)


def _plain(char: str) -> str:
    if char.isspace():
        return " "
    category = unicodedata.category(char)
    if category == "Cc":
        return " "
    return "" if category.startswith("C") else char
