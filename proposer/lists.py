"""Lists in plain text: Markdown tables, numbered, lettered, bulleted and bracketed lines, or lines alone."""

import re
import unicodedata
from collections.abc import Sequence

from proposer.candidate import LONGEST, NAMES, PICTURE
from proposer.inline_lists import split_announced, split_numbers, split_only_line

NUMBERED = re.compile(r"^\W{0,6}\d{1,3}\s?(?:[.):\]\uff1a\uff09\uff0e](?:\W{0,4}\s|\*|(?=[^\W\d]))|[、。]|-\s)")
NAMED = re.compile(rf"^\W{{0,4}}{NAMES}[\s_-]?#?\d{{0,3}}\W{{0,3}}[:\uff1a]\W{{0,2}}\s?(?=\w)", re.IGNORECASE)
LOSS_ROW = re.compile(rf"^\W{{0,4}}loss\W{{0,5}}\d+(?:\.\d+)?\W{{1,8}}{NAMES}\s?[:=]\W{{0,4}}(?=\S)", re.IGNORECASE)
BULLET = re.compile(
    rf"^(?:[-*+\u00b7\u2013\u2014\u2192\u00bb\u27a4]\s|[\u2022\u2023\u25e6\u25aa\u25cf\u25cb]|{PICTURE}|\\\\item\s)"
)
BRACKETED = re.compile(r"^\W{0,3}\[[^\[\]]*\]\W{0,3}$")
QUOTED = re.compile(r"""^["'`\u201c\u201e\u00ab\u300c\u300e].*["'`\u201c\u201d\u00bb\u300d\u300f][,.;]?$""")
LETTER = re.compile(r"^\W{0,4}([A-Za-z])\s?[.)]\W{0,4}\s")
LABELLED = re.compile(r"^\W{0,4}(?:[A-Za-z]{1,20}\.?\s)?#?(\d{1,3}|[A-Za-z])\b\W{0,3}[:|)]\W{0,2}\s", re.IGNORECASE)
"""A number or a letter behind any word: `No. 1:`, `Variant B:`."""
ORDINAL = re.compile(r"^\W{0,4}([A-Za-z]{4,8})(?:ly)?\W{0,3}[:,]\W{0,2}\s")
CHINESE = re.compile(
    "^\\W{0,4}\u7b2c?([\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341])\u4e2a?\\W{0,2}[\u3001:\uff1a.]\\s?"
)
ROMAN = re.compile(r"^\W{0,4}([ivx]{1,5})\s?[.)]\W{0,4}\s", re.IGNORECASE)

NUMBER_ALONE = re.compile(rf"^\W{{0,6}}(?:{NAMES}\s?)?#?(\d{{1,3}})\s?[.):\]]?[*_]{{0,2}}:?$", re.IGNORECASE)
BARE_NUMBER = re.compile(r"^(\d{1,2})\s(?=[^\W\d])")
IN_BRACKETS_AFTER = re.compile(r":\s?\[([^\[\]]+)\]\W{0,2}$")
NUMBER_SIGN = re.compile("[\u2460-\u249b\u24eb-\u24fe\u2776-\u2793]|\\d\ufe0f?\u20e3|(?m:^[\u2160-\u216b]\\b\\W?)")
"""Numbers that are one character, such as \u2460, keycaps, and Roman ones at the start of a line."""
ESCAPED = re.compile(r"\\([.)\]*_#>-])")
"""As Markdown escapes a sign."""

ROMANS = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii", "xiv", "xv", "xvi")
NUMBERS = tuple(map(str, range(1, 65)))
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SEQUENCES: tuple[tuple[re.Pattern[str], Sequence[str]], ...] = (
    (LETTER, LETTERS),
    (ROMAN, ROMANS),
    (LABELLED, NUMBERS),
    (LABELLED, LETTERS),
    (ORDINAL, ORDINALS),
    (CHINESE, "\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341"),
)
"""Markers, which count as such only in their order."""

CHATTER = re.compile(
    r"^(?:sure|certainly|of course|absolutely|okay|ok|great|alright|here (?:are|is)|here's|i hope|i'm|i can|i will"
    r"|let me|let's|note|please|these (?:are|prompts|phrases)|the (?:following|prompts|phrases) |as an ai|feel free"
    r"|below|(?:explanation|reasoning|reason|rationale|why|thoughts?|analysis)\W{0,3}:|(?:assistant|model|user|system)$"
    r"|#{1,6} |\\(?:begin|end)\b)|:$",
    re.IGNORECASE,
)


def list_items(text: str) -> list[str]:
    """The items of the list that a text holds, with markers, quotes and forms around their words."""
    text = ESCAPED.sub(r"\1", NUMBER_SIGN.sub(_spell_number, text))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = _join_split_items(lines)
    if column := _table_column(lines):
        return column
    for form in (LOSS_ROW, NUMBERED, NAMED):
        if items := [line for line in lines if form.match(line)]:
            if form is NUMBERED and len(items) == 1:  # signs in it are its own
                return split_numbers(items[0]) or items
            return split_only_line(items)
    if items := _bare_numbered(lines):
        return items
    for form, order in SEQUENCES:
        if items := _sequence(lines, form, order):
            return items
    for form in (BULLET, BRACKETED, QUOTED):
        if items := [line for line in lines if form.match(line)]:
            return split_only_line(items)
    for line in lines:
        if items := split_numbers(line) or split_announced(line):
            return items
    lines = [match[1] if (match := IN_BRACKETS_AFTER.search(line)) else line for line in lines]
    lines = split_only_line([line for line in lines if not CHATTER.search(line)])
    return [line for line in lines if len(line) <= LONGEST]


def _spell_number(sign: re.Match[str]) -> str:
    return f"{unicodedata.numeric(sign[0][0], 0):.0f}. "


def _join_split_items(lines: Sequence[str]) -> list[str]:
    """Lines, where a number alone and the item on the next line become one."""
    joined: list[str] = []
    waiting = ""
    for line in lines:
        alone = NUMBER_ALONE.match(line)
        if alone:
            waiting = alone[1]
        elif waiting and not NUMBERED.match(line):
            joined.append(f"{waiting}. {line}")
            waiting = ""
        else:
            joined.append(line)
            waiting = ""
    return joined


def _bare_numbered(lines: Sequence[str]) -> list[str]:
    """Items behind numbers without a sign, in any order, where each of at least three lines has its own."""
    found = [match for line in lines if (match := BARE_NUMBER.match(line))]
    is_list = len(lines) > 2 and len({match[1] for match in found}) == len(lines)
    return [match.string[match.end() :] for match in found] if is_list else []


def _sequence(lines: Sequence[str], form: re.Pattern[str], order: Sequence[str]) -> list[str]:
    """Items whose markers follow `order` from its beginning, without the markers; none if there are fewer than two."""
    items: list[str] = []
    for line in lines:
        match = form.match(line)
        if match and len(items) < len(order) and match[1].lower() == order[len(items)]:
            items.append(line[match.end() :])
    return items if len(items) > 1 else []


def _table_column(lines: Sequence[str]) -> list[str]:
    """The cells of a Markdown table's column of prompts."""
    rows = [line for line in lines if line.startswith("|") or line.count("|") > 1 or _is_rule(line)]
    rules = [number for number, row in enumerate(rows) if _is_rule(row)]
    if not rules and sum(row.startswith("|") and row.count("|") > 1 for row in rows) < 2:
        return []
    body = [_cells(row) for row in rows[rules[0] + 1 if rules else 0 :] if not _is_rule(row)]
    header = _cells(rows[rules[0] - 1]) if rules and rules[0] else []
    width = max(map(len, body), default=0)
    named = [column for column, name in enumerate(header) if re.search(NAMES, name, re.IGNORECASE)]
    worded = [column for column in range(width) if all(any(map(str.isalpha, cell)) for cell in _column(body, column))]
    choice = [column for column in named if column < width] or worded
    return _column(body, choice[0]) if choice else []


def _is_rule(line: str) -> bool:
    return "-" in line and "|" in line and set(line) <= set("|-:+ ")


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().removeprefix("|").removesuffix("|").split("|")]


def _column(rows: Sequence[list[str]], column: int) -> list[str]:
    return [row[column] for row in rows if column < len(row)]
