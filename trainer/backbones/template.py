"""Templates: an example's columns between fixed words, cut so that the fixed words survive."""

from collections.abc import Mapping
from typing import Any

from shared.errors import UserError
from trainer.tasks.examples import Example
from trainer.tasks.formats import FIELD


class Template:
    """`backbone.template`, filled and tokenised. Only its own braces are fields; those of the data are text.

    Spaces at its end belong to the label words, as tokenizers join a space to the word behind it.
    """

    def __init__(self, text: str, tokenizer: Any, vocab_size: int) -> None:
        """Take a transformers tokenizer, of whose tokens the model knows those below `vocab_size`.

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
        self._prefix = empty[:1] if empty[:1] == [tokenizer.bos_token_id] else []
        self._vocab_size = vocab_size

    def encode(self, examples: list[Example], max_tokens: int) -> list[list[int]]:
        """Token ids of each example, at most `max_tokens`, after the start token where the model has one.

        Raises:
            UserError: an example lacks a column, or the template alone is longer than `max_tokens`.
        """
        columns = [self._columns(example) for example in examples]
        rows = self._tokenize([self._fill(values) for values in columns])
        pairs = zip(rows, columns, strict=True)
        room = max_tokens - len(self._prefix)
        return [self._prefix + (ids if len(ids) <= room else self._cut(values, room)) for ids, values in pairs]

    def continuation(self, words: str) -> tuple[int, ...]:
        """Token ids of `words` as they continue the template; empty if there are no words."""
        before = self._pieces[-1] or "a"
        context, whole = self._tokenize([before, before + (self._gap + words.strip()).rstrip(" ")])
        return tuple(whole[len(context) :])

    def _columns(self, example: Example) -> dict[str, str]:
        unknown = sorted(self._fields - example.columns.keys())
        if unknown:
            columns = ", ".join(example.columns)
            raise UserError(f"backbone.template: the data have no column {unknown[0]!r}; they have: {columns}")
        return {field: example.columns[field] for field in self._fields}

    def _fill(self, values: Mapping[str, str]) -> str:
        return "".join(values[piece] if at % 2 else piece for at, piece in enumerate(self._pieces))

    def _cut(self, values: Mapping[str, str], max_tokens: int) -> list[int]:
        """At most `max_tokens` token ids, the columns cut at their ends, the longest first."""
        ends = {field: self._ends(text) for field, text in values.items()}
        ids = self._tokenize([self._fill(values)])[0]
        room = sum(len(end) - 1 for end in ends.values())
        while len(ids) > max_tokens:
            room -= len(ids) - max_tokens  # columns have slightly other tokens alone than in the template
            if room < 0:
                raise UserError(
                    f"backbone.template alone is longer than the {max_tokens} tokens that are left for it; shorten it, "
                    "or raise backbone.max_tokens"
                )
            kept = max(
                count for count in range(room + 1) if sum(min(len(end) - 1, count) for end in ends.values()) <= room
            )
            cut = {field: text[: ends[field][: kept + 1][-1]] for field, text in values.items()}
            ids = self._tokenize([self._fill(cut)])[0]
        return ids

    def _ends(self, text: str) -> list[int]:
        """Where the first 0, 1, 2, ... tokens of a text end, in characters."""
        offsets = self._tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        return [0, *(end for _, end in offsets["offset_mapping"])]

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        rows: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [[index for index in ids if index < self._vocab_size] for ids in rows]
