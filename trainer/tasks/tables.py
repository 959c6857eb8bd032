"""Files of rows, read as text: .jsonl, .json, .csv, .tsv and .parquet.

Values are those in the file. Text and everything in CSV and TSV keep their spelling, empty cells too; so do numbers in
JSON. Booleans read `true` and `false`, other values of Parquet and of the hub as Python prints them (`7`, `1.0`,
`2024-01-01`). null is None. Lists and objects stay nested, with the same spelling inside.

Text is UTF-8, with or without a byte order mark. Rows of JSON lines end at line feeds and nowhere else.
"""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import UserError, first_line
from shared.text_files import read_text, split_lines

Value = Any
"""Text, None, or a list or mapping of these."""


@dataclass(frozen=True)
class Table:
    """Rows with the columns that were asked for."""

    origin: str
    """Where the rows come from, for errors."""
    columns: list[str]
    """All columns, those not asked for too."""
    rows: list[dict[str, Value]]


def read_table(path: Path, wanted: Collection[str]) -> Table:
    """Read the `wanted` columns of a file whose suffix is in `READERS`; columns that it lacks are left out.

    Raises:
        UserError: the file cannot be read, holds no rows or a row that is not one.
    """
    try:
        table = READERS[path.suffix.lower()](path, wanted)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or first_line(error)}") from None
    if not table.rows:
        raise UserError(f"{path}: there are no rows in it")
    return table


def as_text(value: Any) -> Value:
    """A value from JSON, Parquet or the hub as a table holds it.

    Raises:
        UnicodeError: text or bytes are not Unicode.
    """
    match value:
        case None:
            return None
        case str():
            value.encode()  # JSON can escape half of a surrogate pair, which no terminal or tokenizer takes
            return value
        case bytes():
            return value.decode()
        case bool():
            return str(value).lower()
        case Mapping():
            return {key: as_text(inner) for key, inner in value.items()}
        case list() | tuple():
            return [as_text(inner) for inner in value]
        case _:
            return str(value)


def from_arrow(table: Any, columns: list[str], origin: str) -> Table:
    """The rows of a pyarrow table that holds the columns asked for; numbered classes get their names.

    Args:
        table: a `pyarrow.Table`; the metadata that `datasets` writes names the classes.
        columns: all columns of its source.
        origin: where it comes from.
    """
    names = _class_names(table.schema)
    try:
        values = table.to_pylist() or [{}] * table.num_rows
    except Exception as error:  # values that Python has no type for: a time zone, a year beyond 9999
        raise UserError(f"{origin}: {', '.join(table.column_names)} cannot be read: {first_line(error)}") from None
    rows = []
    for number, row in enumerate(values, 1):
        place = f"{origin} row {number}"
        named = {key: _named(value, names[key], place) if key in names else value for key, value in row.items()}
        rows.append(_spell(named, place))
    return Table(origin, columns, rows)


def _read_json_lines(path: Path, wanted: Collection[str]) -> Table:
    lines = enumerate(split_lines(read_text(path)), 1)
    return _from_objects(
        path, ((f"line {at}", _parse(line, f"{path} line {at}")) for at, line in lines if line.strip()), wanted
    )


def _read_json(path: Path, wanted: Collection[str]) -> Table:
    """A JSON list of objects; anything else is read as JSON lines."""
    text = read_text(path)
    if not text.lstrip().startswith("["):
        return _read_json_lines(path, wanted)
    objects = _parse(text, str(path))
    return _from_objects(path, ((f"row {number}", one) for number, one in enumerate(objects, 1)), wanted)


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_Object)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON: {error}") from None


class _Object(dict[str, Any]):
    """A JSON object that knows which of its keys it was given twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice = _repeated([key for key, _ in pairs]) if len(pairs) > len(self) else set()


def _repeated(names: list[str]) -> set[str]:
    return {name for name, times in Counter(names).items() if times > 1}


def _refuse_twice(twice: set[str], wanted: Collection[str], where: str) -> None:
    """Refuse names of columns that stand there twice and are wanted: nobody can know which one is meant."""
    if found := sorted(twice & set(wanted)):
        raise UserError(f"{where} names the column {found[0]!r} twice; remove one")


def _from_objects(path: Path, objects: Iterator[tuple[str, Any]], wanted: Collection[str]) -> Table:
    columns: dict[str, None] = {}
    rows = []
    for place, found in objects:
        if not isinstance(found, _Object):
            raise UserError(f"{path} {place}: not a JSON object")
        _refuse_twice(found.twice, wanted, f"{path} {place}:")
        columns |= dict.fromkeys(found)
        rows.append(_spell({key: found[key] for key in wanted if key in found}, f"{path} {place}"))
    return Table(str(path), list(columns), rows)


def _read_csv(path: Path, wanted: Collection[str], delimiter: str = ",") -> Table:
    csv.field_size_limit(sys.maxsize)  # else a cell may have no more than 131,072 characters
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        columns = next(reader, [])
        _refuse_twice(_repeated(columns), wanted, f"{path}: its header")
        places = {name: columns.index(name) for name in wanted if name in columns}
        rows: list[dict[str, Value]] = []
        for cells in reader:
            if not cells:  # an empty line
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"{path} row {len(rows) + 1} has {len(cells)} cells, but the header has {len(columns)}; "
                    f"quote cells that hold the delimiter {delimiter!r}"
                )
            rows.append({name: cells[at] for name, at in places.items()})
    except csv.Error as error:
        raise UserError(
            f"{path}: not {path.suffix[1:]}: line {reader.line_num}: {error}; a cell that begins with a quotation mark "
            "must end with one, and double those inside"
        ) from None
    return Table(str(path), columns, rows)


def _read_tsv(path: Path, wanted: Collection[str]) -> Table:
    return _read_csv(path, wanted, "\t")


def _read_parquet(path: Path, wanted: Collection[str]) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            _refuse_twice(_repeated(columns), wanted, f"{path}: its schema")
            table = file.read(columns=[name for name in wanted if name in columns])
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: cannot be read as parquet: {first_line(error)}") from None
    return from_arrow(table, columns, str(path))


READERS: dict[str, Callable[[Path, Collection[str]], Table]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
"""Readers by suffix, in small letters."""


def _spell(row: Mapping[str, Any], place: str) -> dict[str, Value]:
    spelled = {}
    for column, value in row.items():
        try:
            spelled[column] = as_text(value)
        except UnicodeError:
            raise UserError(f"{place}: column {column!r} holds text that is not Unicode") from None
    return spelled


def _class_names(schema: Any) -> dict[str, list[str]]:
    """The names of the classes in columns that `datasets` has written as numbers, from the file's metadata."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {name: list(one["names"]) for name, one in features.items() if one.get("_type") == "ClassLabel"}
    except (TypeError, KeyError, AttributeError, ValueError):  # written by something else
        return {}


def _named(number: int | None, names: list[str], place: str) -> str | None:
    """The name of class `number`; None if it is hidden, which the hub writes as -1."""
    if number is None or number < 0:
        return None
    if number >= len(names):
        raise UserError(f"{place}: there is a class {number}, but only {len(names)} names of classes")
    return names[number]
