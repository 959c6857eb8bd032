"""Turns replies of LLMs into candidates. The cost is linear in the length of any reply.

A candidate is one clean line with at least one letter. Its text is data: it is never evaluated or
formatted into anything. Reading a numbered list of candidates gives the same candidates again.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from proposer.candidate import LONGEST, key, to_candidate
from proposer.json_like import Found, Pairs, find_values
from proposer.lists import BULLET, NUMBERED, list_items
from proposer.thoughts import strip_thoughts
from shared.text import CONTROL_TOKENS

LONGEST_REPLY = 1_000_000
"""Characters of a reply that are read; thoughts can be long."""

LONGEST_ANSWER = 20_000
"""Characters of an answer without thoughts that are read; 64 of the longest candidates fit."""

FIELDS = (
    *("prompt", "phrase", "template", "candidate", "text", "words", "proposal", "suggestion", "instruction"),
    *("content", "value", "answer", "result", "response", "output", "item", "option", "list"),
)
"""Names of fields that hold candidates, the surest first; also in the plural, and numbered."""

FIELD = re.compile(rf"(?:(?:new|final|best|improved)[\s_-]?)?({'|'.join(FIELDS)})s?[\s_-]?(?:\d+|text|list)?", re.I)
ENUMERATED = re.compile(r"\W{0,2}(?:\d{1,3}|[A-Za-z])\W{0,2}")
ASIDE = re.compile(
    r"reason|thought|think|analy|expla|rational|\bwhy\b|\bnotes?\b|comment|justif|steps?\b|observ|summar|strateg|critiq"
    r"|\bplan\b|avoid|reject|discard|completed",
    re.IGNORECASE,
)
"""Names of fields, tags and sections that hold something other than candidates."""

SECTION = re.compile(r"\[\[ ?## ?(\w{1,100}) ?## ?\]\]")
"""The marks that DSPy puts between fields."""

TAG = re.compile(r"<(/?)([A-Za-z][\w:.-]{0,40})((?:\s[^<>]{0,300})?)/?>")
ATTRIBUTE = re.compile(r"""([\w:-]{1,40})\s?=\s?(?:"([^"<>]*)"|'([^'<>]*)')""")
FORMATTING = frozenset({"b", "i", "em", "strong", "code", "u", "span", "br", "sub", "sup", "mark", "p"})
BREAK = re.compile(r"<br\s?/?>", re.IGNORECASE)
CDATA = re.compile(r"<!\[CDATA\[|\]\]>")
LATEX = re.compile(r"\${0,2}\\(?:boxed|text(?:bf|it|tt)?|emph)\{((?:[^{}]|\{[^{}]{0,400}\}){0,2000})\}\${0,2}")
"""Words in a box or a typeface."""
QUOTED_ROW = re.compile(r"""(["'`\u201d])(?:\s?[,;]|\s(?:[|/]|or|and))\s?(["'`\u201c])""")
"""Between two strings in quotes on one line."""
FENCE = re.compile(r"```|~~~")
FENCE_LINE = re.compile(r"(?:`{3,}|~{3,})[ \t]*+[\w+.{}-]{0,20}(?: [\w-]{1,20}=[^`]{0,80})?")


@dataclass
class Parsed:
    """The candidates of a reply and the items left out."""

    candidates: list[str] = field(default_factory=list)
    empty: int = 0
    """Items without a word."""
    repeated: int = 0
    """Items that repeat another, or one tried before."""


def parse_list(reply: str, wanted: int, tried: Collection[str] = ()) -> Parsed:
    """Candidates from a chat model's reply: a list in any of the forms that LLMs use, with any text around it.

    Args:
        reply: the text as it came.
        wanted: maximum number of candidates.
        tried: keys of texts to leave out.
    """
    text = CONTROL_TOKENS.sub(" ", strip_thoughts(reply[:LONGEST_REPLY])[:LONGEST_ANSWER])
    for _ in range(2):  # a typeface may be in a box
        text = LATEX.sub(r"\1", text)
    return collect(_items(text), wanted, tried)


def parse_continuations(replies: Iterable[str], wanted: int, tried: Collection[str] = ()) -> Parsed:
    """Candidates from texts that continue a list, one each."""
    return collect(
        [strip_thoughts(reply[:LONGEST_REPLY]).lstrip()[: 2 * LONGEST].partition("\n")[0] for reply in replies],
        wanted,
        tried,
    )


def collect(items: Iterable[str], wanted: int, tried: Collection[str] = ()) -> Parsed:
    """Candidates from separate items."""
    parsed = Parsed()
    known = set(tried)
    for item in items:
        candidate = to_candidate(item)
        if not candidate:
            parsed.empty += 1
        elif key(candidate) in known:
            parsed.repeated += 1
        elif len(parsed.candidates) < wanted:
            known.add(key(candidate))
            parsed.candidates.append(candidate)
    return parsed


def field_items(value: Any) -> list[str]:
    """The strings that are meant as candidates in a value of lists, objects (dict or `Pairs`) and strings."""
    if isinstance(value, str):
        return list_items(value) if "\n" in value.strip() else [value]
    if isinstance(value, dict):
        return _object_items(list(value.items()))
    if isinstance(value, Pairs):
        return _object_items(value)
    if isinstance(value, list):
        return [item for part in value for item in field_items(part)]
    return []


def _object_items(pairs: list[tuple[str, Any]]) -> list[str]:
    pairs = [(name.strip(), value) for name, value in pairs if not ASIDE.search(name) and value is not None]
    named = [(match[1].lower(), value) for name, value in pairs if (match := FIELD.fullmatch(name))]
    if named:
        surest = min((name for name, _ in named), key=FIELDS.index)
        return field_items([value for name, value in named if name == surest])
    strings = [value for _, value in pairs if isinstance(value, str)]
    enumerated = pairs and all(ENUMERATED.fullmatch(name) for name, _ in pairs)
    if enumerated or len(strings) == 1:
        return field_items([value for _, value in pairs])
    return field_items([value for _, value in pairs if not isinstance(value, str)])


def _items(text: str) -> list[str]:
    """The items of an answer: of what is in its fences, if that holds any, else of all of it."""
    text = _answer_sections(CDATA.sub(" ", BREAK.sub("\n", text)))
    fenced, whole = _without_fences(text)
    items: list[str] = []
    for part in (fenced, whole):
        items = _tagged(part) or _items_without_tags(part)
        if any(map(to_candidate, items)):
            break
    return items


def _items_without_tags(text: str) -> list[str]:
    values = [found for found in find_values(text) if _counts(text, found)]
    items = [item for found in values if not _is_aside(text, found) for item in field_items(found.value)]
    if items:
        return items
    ends = [0, *(found.end for found in values)]
    starts = [*(found.start for found in values), len(text)]
    rest = "".join(text[end:start] for end, start in zip(ends, starts, strict=True))
    return _quoted_rows(rest) or list_items(rest)


def _quoted_rows(text: str) -> list[str]:
    """The strings of lines such as `"one", "two"`, also in round brackets; none if there is no such line."""
    lines = (line.strip().strip("().,; ") for line in text.splitlines())
    rows = [line for line in lines if line[:1] in tuple("\"'`\u201c") and QUOTED_ROW.search(line)]
    lists = (QUOTED_ROW.sub(r"\1, \2", row) for row in rows)
    return [item for row in lists for found in find_values(f"[{row}]") for item in field_items(found.value)]


def _counts(text: str, found: Found) -> bool:
    """Whether a value is more than a number in brackets or an example inside an item of a list."""
    if not _holds_text(found.value):
        return False
    before = _line_before(text, found)
    marker = NUMBERED.match(f"{before} ") or BULLET.match(before)
    return not marker or not any(map(str.isalpha, before))


def _holds_text(value: Any) -> bool:
    if isinstance(value, Pairs):
        return any(_holds_text(part) for _, part in value)
    return isinstance(value, str) or (isinstance(value, list) and any(map(_holds_text, value)))


def _is_aside(text: str, found: Found) -> bool:
    """Whether a label before a value, on its line or the one above, names it as reasoning."""
    label = text[max(0, found.start - LONGEST) : found.start].rstrip(" \n:=*`\"'").rpartition("\n")[2]
    return len(label.split()) <= 2 and bool(ASIDE.search(label))


def _line_before(text: str, found: Found) -> str:
    return text[max(0, found.start - LONGEST) : found.start].rpartition("\n")[2].lstrip()


def _answer_sections(text: str) -> str:
    """The text without DSPy's marks, and without sections that are not the answer."""
    first, *rest = SECTION.split(text)
    if not rest:
        return text
    return "\n".join(
        [first, *(body for name, body in zip(rest[::2], rest[1::2], strict=True) if not ASIDE.search(name))]
    )


def _without_fences(text: str) -> tuple[str, str]:
    """What stands inside of fences, and all of the text without their marks. The last fence may lack its end."""
    inside: list[str] = []
    whole: list[str] = []
    is_inside = False
    for line in text.splitlines():
        if FENCE_LINE.fullmatch(line.strip()):
            is_inside = not is_inside
            continue
        if FENCE.search(line):
            line = FENCE.sub(" ", line)
        whole.append(line)
        if is_inside:
            inside.append(line)
    return "\n".join(inside), "\n".join(whole)


def _tagged(text: str) -> list[str]:
    """The contents of innermost pairs of tags, such as <prompt> or <INS>, and named attributes of empty ones."""
    tags = [tag for tag in TAG.finditer(text) if tag[2].lower() not in FORMATTING]
    items: list[str] = []
    for tag, after in zip_longest(tags, tags[1:]):
        if tag[1] or ASIDE.search(tag[2]):
            continue
        is_pair = after is not None and tag[2].lower() == after[2].lower()  # the end may lack its slash
        content = text[tag.end() : after.start()].strip() if is_pair else ""
        if content:
            items += _items_without_tags(content) if "\n" in content or content[0] in "[{" else [content]
        else:
            attributes = [(name, double or single) for name, double, single in ATTRIBUTE.findall(tag[3])]
            items += _object_items([pair for pair in attributes if FIELD.fullmatch(pair[0])])
    return items
