"""Templates: an example's columns between fixed words, cut so that the fixed words survive."""

from collections.abc import Mapping
from typing import Any

from shared.errors import UserError
from trainer.tasks.examples import Example
from trainer.tasks.formats import FIELD


class Template:
    """`backbone.template`, filled and tokenised. Only its own braces are fields; those of the data stay as they are.

    Spaces at its end belong to the label words, as tokenizers join a space to the word behind it.
    """

    def __init__(self, text: str, tokenizer: Any, most: int) -> None:
        """Take a transformers tokenizer; examples are cut at `most` tokens.

        Raises:
            UserError: the template has no field.
        """
        cue = text.rstrip(" ")
        self._gap = "" if cue == text and cue[-1:].isspace() else " "
        self._pieces = FIELD.split(cue)  # words, field, words, field, ..., words
        self._fields = set(self._pieces[1::2])
        if not self._fields:
            raise UserError(f"backbone.template = {text!r} has no column in braces, such as {{text}}")
        self._tokenizer = tokenizer
        empty = tokenizer("")["input_ids"]
        self._begin = empty[:1] if empty[:1] == [tokenizer.bos_token_id] else []
        self._most = most - len(self._begin)

    def encode(self, examples: list[Example]) -> list[list[int]]:
        """Token ids of each example, after the token that begins a text where the model has one.

        Raises:
            UserError: an example lacks a column, or the template alone is longer than `most`.
        """
        columns = [self._columns(example) for example in examples]
        rows = self._tokenize([self._fill(values) for values in columns])
        pairs = zip(rows, columns, strict=True)
        return [self._begin + (ids if len(ids) <= self._most else self._cut(values)) for ids, values in pairs]

    def continuation(self, words: str) -> tuple[int, ...]:
        """Token ids of `words` as they go on behind the template; empty if there are no words."""
        before = self._pieces[-1] or "a"
        context, whole = self._tokenize([before, before + (self._gap + words.strip()).rstrip(" ")])
        return tuple(whole[len(context) :])

    def _columns(self, example: Example) -> dict[str, str]:
        unknown = sorted(self._fields - example.columns.keys())
        if unknown:
            there = ", ".join(example.columns)
            raise UserError(f"backbone.template: there is no column {unknown[0]!r} in the data; there are: {there}")
        return {field: example.columns[field] for field in self._fields}

    def _fill(self, values: Mapping[str, str]) -> str:
        return "".join(values[piece] if at % 2 else piece for at, piece in enumerate(self._pieces))

    def _cut(self, values: Mapping[str, str]) -> list[int]:
        """Token ids at most `most`, the columns cut at their ends, the longest first."""
        ends = {field: self._ends(text) for field, text in values.items()}
        ids = self._tokenize([self._fill(values)])[0]
        room = sum(len(end) - 1 for end in ends.values())
        while len(ids) > self._most:
            room -= len(ids) - self._most  # the columns' tokens alone are not quite those they are in the template
            if room < 0:
                raise UserError("backbone.template alone is longer than backbone.max_tokens; raise that")
            kept = max(
                most for most in range(room + 1) if sum(min(len(end) - 1, most) for end in ends.values()) <= room
            )
            cut = {field: text[: ends[field][: kept + 1][-1]] for field, text in values.items()}
            ids = self._tokenize([self._fill(cut)])[0]
        return ids

    def _ends(self, text: str) -> list[int]:
        """Where the first 0, 1, 2, ... tokens of a text end, in characters."""
        offsets = self._tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        return [0, *(end for _, end in offsets["offset_mapping"])]

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return ids
