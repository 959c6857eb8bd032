"""Untrusted text: cleaned, cut, and made safe to print; in time linear in its length."""

import json
import re
import unicodedata

# Chat models treat these as commands or as their own marks; a reply or a candidate must not carry them on.
CONTROL_TOKENS = re.compile(
    r"<\|[^|<>\s]{1,40}\|?>|<[^|<>\s]{1,40}\|>|<\|[^|<>\r\n]{0,40}\|>"
    r"|</?(?:s|bos|eos|pad|think|thinking|thought|reasoning|seed:\w{1,30}|start_of_turn|end_of_turn|unused\d{1,3})>"
    r"|\[/?(?:INST|THINK)\]|◁/?think▷|<\|\w{0,40}\Z",
    re.IGNORECASE,
)

QUERY = re.compile(r"[?#][^\"'`<>]+")
"""What follows the path of an address; keys are given there, too."""

PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2013": "-", "\u2014": "-"}
)
"""Typographic quotes and dashes to those of a keyboard."""

MAX_COMBINING = 30
"""Combining marks kept after one character, as in Unicode's Stream-Safe Text Format (UAX #15): Python sorts a run of
them in quadratic time."""


def clean(text: str) -> str:
    """The text on one line: NFKC, plain quotes, single spaces, no control or format characters, no chat tokens."""
    for _ in range(8):  # removing something can join its surroundings into something to remove
        normal = unicodedata.normalize("NFKC", _stream_safe(text)).translate(PLAIN)
        cleaner = " ".join(CONTROL_TOKENS.sub(" ", _without_controls(normal)).split())
        if cleaner == text:
            return text
        text = cleaner
    return " ".join("".join(char for char in text if char not in "<>[]◁▷").split())


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
    """The text with each address in it as `hide_in_address` shows it."""
    return re.sub(r"\S+", lambda word: hide_in_address(word[0]), text) if "://" in text else text


def hide_in_address(address: str) -> str:
    """An address with `[hidden]` for its user and password, and for its query."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        return address
    _, at, host = rest.rpartition("@")
    return f"{scheme}://{'[hidden]@' if at else ''}{QUERY.sub('?[hidden]', host)}"


def escape_json(text: str) -> str:
    """JSON with an escape for each character that `printable` replaces; it still says the same."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _stream_safe(text: str) -> str:
    if text.isascii():
        return text
    kept = []
    marks = 0
    for char in text:
        marks = marks + 1 if unicodedata.combining(char) else 0
        if marks <= MAX_COMBINING:
            kept.append(char)
    return "".join(kept)


def _without_controls(text: str) -> str:
    return "".join(_plain(char) for char in text)


def _plain(char: str) -> str:
    if char.isspace():
        return " "
    category = unicodedata.category(char)
    if category == "Cc":
        return " "
    return "" if category.startswith("C") else char
