"""Lists that stand on one line: between numbers, signs, labels of templates or, behind a name, commas."""

import re
from collections.abc import Sequence

from proposer.candidate import NOUNS

NUMBER = re.compile(r"(?:^|(?<=\s))[(\[]?(\d{1,3})[.)\]]\s")
LETTER = re.compile(r"(?:^|(?<=\s))\(([a-z])\)\s", re.IGNORECASE)
SIGN = re.compile(r"\s?;\s|\s[|/\u00b7\u2022\u2023\u25cf\u2192]\s")
TEMPLATE_END = re.compile(r"(?<=\blabel[\]})>])[\s,;|/]+(?:and\s|or\s)?(?=\w)", re.IGNORECASE)
COMMA = re.compile(r",\s(?:and\s|or\s)?")
LEAD = re.compile(rf"^[^:;]{{0,80}}?\b(?:{NOUNS})s\b[^:;]{{0,40}}:\W{{0,3}}(?=\w)", re.IGNORECASE)
"""What announces a list."""


def split_numbers(line: str) -> list[str]:
    """The items of `1. one 2. two`, or of `(a) one (b) two`, with their markers; none if there are fewer than two."""
    for form in (NUMBER, LETTER):
        starts: list[int] = []
        for marker in form.finditer(line):
            if _place(marker[1]) == len(starts) + 1:
                starts.append(marker.start())
        if len(starts) > 1:
            return [line[start:end] for start, end in zip(starts, [*starts[1:], len(line)], strict=True)]
    return []


def split_announced(line: str) -> list[str]:
    """The items of `Here are three prompts: one, two, three`; none where nothing announces several."""
    lead = LEAD.match(line)
    return _split(line[lead.end() :], (TEMPLATE_END, SIGN, COMMA)) if lead else []


def split_only_line(lines: Sequence[str]) -> list[str]:
    """The items on one line, if there is no other: behind labels, by `;` or another sign, or by numbers."""
    if len(lines) != 1:
        return list(lines)
    return _split(lines[0], (TEMPLATE_END, SIGN)) or split_numbers(lines[0]) or list(lines)


def _place(marker: str) -> int:
    """1 of `1`, `01` or `a`."""
    return int(marker) if marker.isdecimal() else ord(marker.lower()) - ord("a") + 1


def _split(line: str, marks: Sequence[re.Pattern[str]]) -> list[str]:
    """The parts of a line between the first of the marks that it has; none if it has none."""
    return next((items for mark in marks if len(items := mark.split(line)) > 1), [])
