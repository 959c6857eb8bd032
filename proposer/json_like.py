"""Finds JSON in prose, also as LLMs write it: single quotes, trailing commas, comments, a missing end.

Nothing is evaluated. Every character is read a bounded number of times, so the cost is linear in the text's length.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 16
"""Levels of nesting that are read as one value."""

START = re.compile(r"[\[{]")
SPACE = re.compile(r"(?:\s+|//[^\n]*|#[^\n]*|/\*[^*]{0,200}\*/)*+")
SCALAR = re.compile(r"[-+]?\d[\w.+-]*|\.{3}|(?:true|false|null|none|nan)\b", re.IGNORECASE)
BARE_KEY = re.compile(r"([A-Za-z_]\w*|\d{1,3})(?=\s{0,8}:)")
STRING = re.compile(
    r'"((?:\\.|[^\\\n])*?)"(?=[ \t]*(?:[,:\]}\n#]|/[/*]|\Z))'
    r"|'((?:\\.|[^\\\n])*?)'(?=[ \t]*(?:[,:\]}\n#]|/[/*]|\Z))"
    r"|`([^`\n]{0,500})`(?=[ \t]*(?:[,:\]}\n#]|/[/*]|\Z))"
    "|\u201c([^\u201d\n]*)\u201d"
)
"""A quotation mark ends a string where something follows that can follow a string, so that `'what's new'` is one."""


class Pairs(list[tuple[str, Any]]):
    """An object; a list, because LLMs repeat keys."""


@dataclass(frozen=True)
class Found:
    """A value with its place in the text."""

    value: Any
    """A list, `Pairs` or str; numbers, true, false and null are None."""
    start: int
    end: int


def find_values(text: str) -> Iterator[Found]:
    """The lists and objects of a text in order, the outermost of each nest.

    One that ends with the text, or that breaks off after two items or more, counts as far as it was read.
    """
    position = 0
    while start := START.search(text, position):
        reader = _Reader(text, start.start())
        yield from reader.read()
        position = max(reader.position, start.end())


class _Unreadable(Exception):
    """What stands at the position cannot be part of a value."""


class _Reader:
    """Reads one list or object by recursive descent."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self._start = start
        self.position = start
        """How far the text was read."""
        self._finished: list[Found] = []
        """Lists and objects read to their end, without those inside of another."""

    def read(self) -> list[Found]:
        """What was found."""
        root: list[Any] = []
        try:
            self._container(root.append, 0)
        except _Unreadable:
            if root and (self.position >= len(self._text) or len(root[0]) > 1):
                return [Found(root[0], self._start, self.position)]
        return self._finished

    def _container(self, keep: Callable[[Any], Any], depth: int) -> None:
        start = self.position
        is_list = self._text[start] == "["
        value: list[Any] = [] if is_list else Pairs()
        keep(value)
        self.position += 1
        self._skip_space()
        while self._next() != ("]" if is_list else "}"):
            if is_list:
                self._value(value.append, depth + 1)
            else:
                self._pair(value, depth + 1)
            self._skip_space()
            if self._next() == ",":
                self.position += 1
                self._skip_space()
        self.position += 1
        while self._finished and self._finished[-1].start > start:
            self._finished.pop()
        self._finished.append(Found(value, start, self.position))

    def _pair(self, pairs: list[Any], depth: int) -> None:
        bare = BARE_KEY.match(self._text, self.position)
        if bare:
            key = bare[1]
            self.position = bare.end()
        else:
            key = self._string()
        self._skip_space()
        if self._next() == ":":
            self.position += 1
            self._skip_space()
            self._value(lambda value: pairs.append((key, value)), depth)
        else:
            pairs.append((str(len(pairs) + 1), key))  # a set, as Python writes it

    def _value(self, keep: Callable[[Any], Any], depth: int) -> None:
        char = self._next()
        if char in ("[", "{"):
            if depth > MAX_DEPTH:
                raise _Unreadable
            self._container(keep, depth)
        elif scalar := SCALAR.match(self._text, self.position):
            keep(None)
            self.position = scalar.end()
        else:
            keep(self._string())

    def _string(self) -> str:
        found = STRING.match(self._text, self.position)
        if not found:
            if self._next() in ('"', "'", "`", "\u201c"):  # it does not end on its line
                newline = self._text.find("\n", self.position)
                self.position = newline if newline >= 0 else len(self._text)
            raise _Unreadable
        self.position = found.end()
        return _unescape(next(group for group in found.groups() if group is not None))

    def _next(self) -> str:
        return self._text[self.position : self.position + 1]

    def _skip_space(self) -> None:
        match = SPACE.match(self._text, self.position)
        assert match  # it may be empty
        self.position = match.end()


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text.replace("\\", "")
