"""Make text that came from elsewhere fit for one line: of a meta-prompt, of a candidate, of a log."""

import re
import unicodedata

# What steers chat models or was meant for them; an LLM's reply or a candidate must not carry it on.
CONTROL_TOKENS = re.compile(
    r"<\|[^|<>]{0,40}\|>|</?(?:s|think|thinking|thought|reasoning|start_of_turn|end_of_turn)>|\[/?INST\]", re.IGNORECASE
)

PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})
"""Quotation marks and dashes as keyboards have them."""


def clean(text: str) -> str:
    """The text on one line: NFKC, plain quotes, single spaces, no control or format characters, no chat tokens."""
    for _ in range(8):  # taking something out can join what stood around it into something to take out
        cleaner = " ".join(
            CONTROL_TOKENS.sub(" ", _printable(unicodedata.normalize("NFKC", text).translate(PLAIN))).split()
        )
        if cleaner == text:
            return text
        text = cleaner
    return " ".join("".join(char for char in text if char not in "<>[]").split())


def cut(text: str, longest: int) -> str:
    """At most `longest` characters, cut between two words where there are two."""
    if len(text) <= longest:
        return text
    head, space, _ = text[: longest + 1].rpartition(" ")
    return head if space else text[:longest]


def _printable(text: str) -> str:
    return "".join(_plain(char) for char in text)


def _plain(char: str) -> str:
    if char.isspace():
        return " "
    category = unicodedata.category(char)
    if category == "Cc":
        return " "
    return "" if category.startswith("C") else char
