"""How each format reads a row: the official JSON lines of SuperGLUE and the hub's columns.

Where the two differ (MultiRC, ReCoRD and WSC are nested in the files), a row of the files is first flattened to the
hub's columns. A question comes before its passage, so that it stays whole when a long pair is cut, at its end or in
its longer text.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from shared.settings import Format, TaskSettings
from shared.text import printable
from trainer.tasks.examples import Example
from trainer.tasks.tables import Value

Labelled = tuple[Example, str | None]
"""An example and its raw label; None if the data has none."""
Reader = Callable[[Mapping[str, Value]], Iterator[Labelled]]
"""Reads one row, which may hold several examples."""

YES_NO = {"False": "no", "True": "yes"}
ENTAILMENT = {"entailment": "entailment", "not_entailment": "not entailment"}

LABELS: dict[Format, dict[str, str]] = {
    "boolq": YES_NO,
    "cb": {"entailment": "entailment", "contradiction": "contradiction", "neutral": "neutral"},
    "copa": {"choice1": "first choice", "choice2": "second choice"},
    "multirc": YES_NO,
    "record": YES_NO,
    "rte": ENTAILMENT,
    "wic": {"False": "different meaning", "True": "same meaning"},
    "wsc": YES_NO,
    "cola": {"unacceptable": "unacceptable", "acceptable": "acceptable"},
    "sst2": {"negative": "negative", "positive": "positive"},
    "mrpc": {"not_equivalent": "different", "equivalent": "equivalent"},
    "qqp": {"not_duplicate": "different", "duplicate": "duplicate"},
    "mnli": {"entailment": "entailment", "neutral": "neutral", "contradiction": "contradiction"},
    "qnli": ENTAILMENT,
    "wnli": {"not_entailment": "not entailment", "entailment": "entailment"},
}
"""Raw labels in the order of the hub's class numbers, which is the order of the classes, and their words."""

COLUMNS: dict[Format, tuple[str, ...]] = {
    "boolq": ("question", "passage"),
    "cb": ("premise", "hypothesis"),
    "rte": ("premise", "hypothesis"),
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "wnli": ("sentence1", "sentence2"),
}
"""Formats whose texts are columns of the data."""

NESTED: dict[Format, tuple[str, ...]] = {
    "copa": ("premise", "question", "choice1", "choice2"),
    "multirc": ("passage", "paragraph", "question", "answer"),
    "record": ("passage", "qas", "query", "entities", "answers"),
    "wic": ("word", "sentence1", "sentence2", "start1", "end1", "start2", "end2"),
    "wsc": ("text", "target", "span1_text", "span1_index", "span2_text", "span2_index"),
}
"""Formats that combine columns, and their columns in the files or on the hub."""

FIELD = re.compile(r"\{([^{}]+)\}")
"""A column in a template."""

JOINERS = {"cause": "because", "effect": "so"}
"""What joins COPA's premise and a choice."""


class UnreadableRow(Exception):
    """What is wrong with a row, in words."""


class MissingColumn(UnreadableRow):
    """A column that the format needs is missing."""


def wanted_columns(settings: TaskSettings, template: str) -> list[str]:
    """The columns that a task reads: its texts, its label, and those in braces in `template`."""
    if settings.format == "text":
        own = [settings.text, *filter(None, [settings.text2]), settings.label]
    else:
        own = [*(COLUMNS.get(settings.format) or NESTED[settings.format]), "label"]
    return list(dict.fromkeys([*own, *FIELD.findall(template)]))


def text_columns(settings: TaskSettings) -> tuple[str, ...]:
    """The one or two columns that are an example's texts; none if the format combines columns."""
    if settings.format == "text":
        return (settings.text, settings.text2) if settings.text2 else (settings.text,)
    return COLUMNS.get(settings.format, ())


def format_reader(settings: TaskSettings) -> Reader:
    """The reader of the task's rows; it raises `UnreadableRow`."""
    format = settings.format
    if format == "text":
        keys = tuple(zip(text_columns(settings), ("task.text", "task.text2"), strict=False))
        return partial(_read_columns, keys=keys, label=(settings.label, "task.label"))
    if format in COLUMNS:
        return partial(_read_columns, keys=tuple((column, "task.format") for column in COLUMNS[format]))
    readers: dict[Format, Reader] = {
        "copa": _read_copa,
        "multirc": _read_multirc,
        "record": _read_record,
        "wic": _read_wic,
        "wsc": _read_wsc,
    }
    return readers[format]


def raw_label(value: Value, format: Format) -> str | None:
    """A cell as a raw label: its text, or a format's own label by its number; None if it is empty or hidden.

    Raises:
        UnreadableRow: it is a list or object, or begins or ends with a blank.
    """
    if isinstance(value, list | Mapping):
        kind = "a list" if isinstance(value, list) else "an object"
        raise UnreadableRow(f"the label is {kind}, not a text: {value}")
    if value is None or not printable(value).strip():
        return None
    own = list(LABELS.get(format, ()))
    if not own:
        return str(value)
    if value == "-1":  # how the hub hides the labels of test sets
        return None
    if value.isdecimal() and int(value) < len(own):
        return own[int(value)]
    return next((label for label in own if label.casefold() == value.casefold()), value)


def _read_columns(
    row: Mapping[str, Value], keys: tuple[tuple[str, str], ...], label: tuple[str, str] | None = None
) -> Iterator[Labelled]:
    """One or two columns unchanged; `keys` pairs each with the setting that names it, `label` likewise."""
    texts = tuple(_text(row, column, key) for column, key in keys)
    value = _value(row, *label) if label else row.get("label")
    yield Example((texts,), _columns(row, texts, label[0] if label else "label")), value


def _read_copa(row: Mapping[str, Value]) -> Iterator[Labelled]:
    """The premise with `because` or `so`, with either choice."""
    asked = _text(row, "question")
    if asked not in JOINERS:
        raise UnreadableRow(f"column 'question' holds {asked!r}, neither cause nor effect")
    premise = f"{_text(row, 'premise').strip().removesuffix('.')} {JOINERS[asked]}"
    choices = tuple((premise, _text(row, column)) for column in ("choice1", "choice2"))
    yield Example(choices, _columns(row, (premise,))), row.get("label")


def _read_wic(row: Mapping[str, Value]) -> Iterator[Labelled]:
    """Both sentences, each after the word in question, which is marked in it."""
    word = _text(row, "word")
    texts = tuple(f"{word}: {_mark_offsets(row, number)}" for number in (1, 2))
    yield Example((texts,), _columns(row, texts)), row.get("label")


def _mark_offsets(row: Mapping[str, Value], number: int) -> str:
    sentence = _text(row, f"sentence{number}")
    start, end = _number(row, f"start{number}"), _number(row, f"end{number}")
    if not 0 <= start < end <= len(sentence):
        raise UnreadableRow(f"start{number} = {start} and end{number} = {end} mark no word of sentence{number}")
    return f"{sentence[:start]}*{sentence[start:end]}*{sentence[end:]}"


def _read_wsc(row: Mapping[str, Value]) -> Iterator[Labelled]:
    """The text with *noun phrase* and #pronoun# marked, and the reading to be judged."""
    row = {**row, **_section(row, "target")} if "target" in row else row
    text, noun, pronoun = _text(row, "text"), _text(row, "span1_text"), _text(row, "span2_text")
    marks = [
        (*_find_span(text, noun, _number(row, "span1_index")), "*"),
        (*_find_span(text, pronoun, _number(row, "span2_index")), "#"),
    ]
    for start, end, sign in sorted(marks, reverse=True):  # from the end, so that earlier offsets stay right
        text = f"{text[:start]}{sign}{text[start:end]}{sign}{text[end:]}"
    texts = (text, f"{pronoun} refers to {noun}.")
    yield Example((texts,), _columns(row, texts)), row.get("label")


def _find_span(text: str, span: str, index: int) -> tuple[int, int]:
    """Start and end of the occurrence of `span` nearest to word `index`, where it should begin.

    Letter case, line breaks and some indices of the official data are wrong.
    """
    words = [match.start() for match in re.finditer(r"\S+", text)]
    spaced = r"\s+".join(re.escape(word) for word in span.split())
    found = [match.span() for match in re.finditer(rf"(?<!\w){spaced}(?!\w)", text, re.IGNORECASE)]
    if not found:
        raise UnreadableRow(f"the text does not hold {span!r}")
    expected = words[max(0, min(index, len(words) - 1))]
    return min(found, key=lambda place: abs(place[0] - expected))


def _read_multirc(row: Mapping[str, Value]) -> Iterator[Labelled]:
    """Each answer after its question, and the paragraph; the question is the group."""
    for flat in _flatten_multirc(row) if "passage" in row else [row]:
        paragraph, question, answer = (_text(flat, column) for column in ("paragraph", "question", "answer"))
        texts = (f"{question} {answer}", paragraph)
        yield Example((texts,), _columns(flat, texts), group=f"{paragraph}\n{question}"), flat.get("label")


def _flatten_multirc(row: Mapping[str, Value]) -> Iterator[dict[str, Value]]:
    passage = _section(row, "passage")
    for question in _sections(passage, "questions"):
        for answer in _sections(question, "answers"):
            yield {
                "paragraph": passage.get("text"),
                "question": question.get("question"),
                "answer": answer.get("text"),
                "label": answer.get("label"),
            }


def _read_record(row: Mapping[str, Value]) -> Iterator[Labelled]:
    """The query with each entity in its gap, and the passage; the query is the group."""
    for flat in _flatten_record(row) if "qas" in row else [row]:
        passage, query = _text(flat, "passage"), _text(flat, "query")
        gold = tuple(dict.fromkeys(_texts(flat, "answers")))
        for entity in dict.fromkeys(_texts(flat, "entities")):
            texts = (query.replace("@placeholder", entity), passage)
            columns = {**_columns(flat, texts), "entity": entity}
            example = Example((texts,), columns, group=f"{passage}\n{query}", answer=entity, gold=gold)
            yield example, str(entity in gold) if gold else None


def _flatten_record(row: Mapping[str, Value]) -> Iterator[dict[str, Value]]:
    passage = _section(row, "passage")
    text = _text(passage, "text")
    spans = [(_number(span, "start"), _number(span, "end")) for span in _sections(passage, "entities")]
    for asked in _sections(row, "qas"):
        yield {
            "passage": text,
            "query": asked.get("query"),
            "entities": [text[start : end + 1] for start, end in spans],
            "answers": [_text(answer, "text") for answer in asked.get("answers") or []],
        }


def _columns(row: Mapping[str, Value], texts: tuple[str, ...], label: str = "label") -> dict[str, str]:
    """The row's columns of text, for templates, without its label."""
    named = {column: value for column, value in row.items() if isinstance(value, str)}
    named.pop(label, None)
    return named | dict(zip(("text", "text2"), texts, strict=False))


def _value(row: Mapping[str, Value], column: str, key: str) -> Value:
    if column not in row:
        raise MissingColumn(f"column not found: {column!r}, which {key} asks for")
    return row[column]


def _text(row: Mapping[str, Value], column: str, key: str = "task.format") -> str:
    value = _value(row, column, key)
    if not isinstance(value, str) or not printable(value).strip():
        raise UnreadableRow(f"column {column!r} holds no text")
    return value


def _number(row: Mapping[str, Value], column: str) -> int:
    value = _value(row, column, "task.format")
    if not isinstance(value, str) or not re.fullmatch(r"-?\d{1,18}", value):
        raise UnreadableRow(f"column {column!r} holds no whole number")
    return int(value)


def _section(row: Mapping[str, Value], column: str) -> Mapping[str, Value]:
    value = _value(row, column, "task.format")
    if not isinstance(value, Mapping):
        raise UnreadableRow(f"column {column!r} does not have the structure of the official files")
    return value


def _sections(row: Mapping[str, Value], column: str) -> list[Mapping[str, Value]]:
    value = _value(row, column, "task.format")
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise UnreadableRow(f"column {column!r} does not have the structure of the official files")
    return value


def _texts(row: Mapping[str, Value], column: str) -> list[str]:
    value = _value(row, column, "task.format")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UnreadableRow(f"column {column!r} holds no list of texts")
    return value
