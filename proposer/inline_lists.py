"""Lists that stand on one line: between numbers, signs, labels of templates or, behind a name, commas."""

import re
from collections.abc import Sequence

NUMBER = re.compile(r"(?:^|(?<=\s))[(\[]?(\d{1,3})[.)\]]\s")
LETTER = re.compile(r"(?:^|(?<=\s))\(([a-z])\)\s", re.IGNORECASE)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIGN = re.compile(r"\s?;\s|\s[|/\u00b7\u2022\u2023\u25cf\u2192]\s")
TEMPLATE_END = re.compile(r"(?<=\blabel[\]})>])[\s,;|/]+(?:and\s|or\s)?(?=\w)", re.IGNORECASE)
COMMA = re.compile(r",\s(?:and\s|or\s)?")
LEAD = re.compile(
    r"^[^:;]{0,80}?\b(?:prompts|phrases|templates|candidates|proposals|options|suggestions|ideas)\b[^:;]{0,40}"
    r":\W{0,3}(?=\w)",
    re.IGNORECASE,
)
"""What announces a list."""


def split_numbers(line: str) -> list[str]:
    """The items of `1. one 2. two`, or of `(a) one (b) two`, with their markers; else the line alone."""
    for form, order in ((NUMBER, [str(number) for number in range(1, 65)]), (LETTER, LETTERS)):
        starts: list[int] = []
        for marker in form.finditer(line):
            if len(starts) < len(order) and marker[1].lower() == order[len(starts)]:
                starts.append(marker.start())
        if len(starts) > 1:
            return [line[start:end] for start, end in zip(starts, [*starts[1:], len(line)], strict=True)]
    return [line]


def split_announced(line: str) -> list[str]:
    """The items of `Here are three prompts: one, two, three`; none where nothing announces several."""
    lead = LEAD.match(line)
    items = _split(line[lead.end() :], (TEMPLATE_END, SIGN, COMMA)) if lead else []
    return items if len(items) > 1 else []


def split_only_line(lines: Sequence[str]) -> list[str]:
    """The items on one line, if there is no other: behind labels, by `;` or another sign, or by numbers."""
    if len(lines) != 1:
        return list(lines)
    items = _split(lines[0], (TEMPLATE_END, SIGN))
    return items if len(items) > 1 else split_numbers(lines[0])


def _split(line: str, marks: Sequence[re.Pattern[str]]) -> list[str]:
    """The parts of a line between the first of the marks that it has."""
    return next((items for mark in marks if len(items := mark.split(line)) > 1), [line])
