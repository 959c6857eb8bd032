"""Make text from elsewhere fit for one line of a meta-prompt, a candidate or a log. Linear in the text's length."""

import re
import unicodedata

# Chat models treat these as commands or as their own marks; a reply or a candidate must not carry them on.
CONTROL_TOKENS = re.compile(
    r"<\|[^|<>\s]{1,40}\|?>|<[^|<>\s]{1,40}\|>|<\|[^|<>]{0,40}\|>"
    r"|</?(?:s|bos|eos|pad|think|thinking|thought|reasoning|seed:\w{1,30}|start_of_turn|end_of_turn|unused\d{1,3})>"
    r"|\[/?(?:INST|THINK)\]|◁/?think▷",
    re.IGNORECASE,
)

PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})
"""Quotation marks and dashes as keyboards have them."""

MAX_COMBINING = 30
"""Combining marks kept after one character, as in Unicode's Stream-Safe Text Format (UAX #15): Python sorts a run of
them in quadratic time."""


def clean(text: str) -> str:
    """The text on one line: NFKC, plain quotes, single spaces, no control or format characters, no chat tokens."""
    for _ in range(8):  # removing something can join its surroundings into something to remove
        normal = unicodedata.normalize("NFKC", _stream_safe(text)).translate(PLAIN)
        cleaner = " ".join(CONTROL_TOKENS.sub(" ", _printable(normal)).split())
        if cleaner == text:
            return text
        text = cleaner
    return " ".join("".join(char for char in text if char not in "<>[]◁▷").split())


def cut(text: str, longest: int) -> str:
    """At most `longest` characters, cut between two words where there are two."""
    if len(text) <= longest:
        return text
    head, space, _ = text[: longest + 1].rpartition(" ")
    return head if space else text[:longest]


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


def _printable(text: str) -> str:
    return "".join(_plain(char) for char in text)


def _plain(char: str) -> str:
    if char.isspace():
        return " "
    category = unicodedata.category(char)
    if category == "Cc":
        return " "
    return "" if category.startswith("C") else char
