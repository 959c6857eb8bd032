"""Files of rows: values keep their spelling, only the columns asked for are read, and a bad row is one line."""

import csv
import io
import json
from datetime import date, datetime
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from shared.errors import UserError
from shared.text_files import split_lines
from trainer.tasks.tables import read_table

SPELLINGS = ["None", "NA", "null", "nan", "01", "2024-01-01", "1.0", "1e5", "true", "True", "7", "", " ", "-1"]
SPELLINGS += [
    "9" * 40,
    "0.1000000000000000055",
    "NULL",
    "N/A",
    "#N/A",
    "inf",
    "a,b",
    'say "so"',
    "two\nlines",
    "\u2028",
]
SPELLINGS += ["a\x85b", "a\x0cb", "\U0001f600", "a\tb", "x" * 200_000]


def cell(path, column="text"):
    return [row[column] for row in read_table(path, [column]).rows]


def refusal(path, *wanted):
    with pytest.raises(UserError) as caught:
        read_table(path, wanted or ("text", "label"))
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return line


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t"), ("CSV", ",")])
def test_csv_keeps_every_spelling(tmp_path, suffix, delimiter, ending, bom):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ending)
    writer.writerows([["text", "label"], *([spelling, "x"] for spelling in SPELLINGS)])
    path = tmp_path / f"train.{suffix}"
    path.write_bytes(bom + text.getvalue().encode())
    assert cell(path) == SPELLINGS


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_json_lines_keep_every_spelling(tmp_path, suffix, ending, bom):
    rows = [json.dumps({"text": spelling}, ensure_ascii=False) for spelling in SPELLINGS]
    path = tmp_path / f"train.{suffix}"
    path.write_bytes(bom + (ending.join([rows[0], "", *rows[1:]]) + ending).encode())
    assert cell(path) == SPELLINGS


def test_numbers_in_json_keep_the_spelling_of_the_file(tmp_path):
    path = tmp_path / "train.jsonl"
    said = ["7", "1.0", "1e5", "-0", "0.10", "9" * 5000, "NaN"]
    path.write_text("".join(f'{{"text": {number}}}\n' for number in [*said, "true", "false", "null"]))
    assert cell(path) == [*said, "true", "false", None]
    path = tmp_path / "list.json"
    path.write_text(' [{"text": 1.0}, {"text": [1, {"a": true}]}]')
    assert cell(path) == ["1.0", ["1", {"a": "true"}]]


def test_values_of_parquet_have_one_spelling(tmp_path):
    path = tmp_path / "train.parquet"
    columns = {
        "int": [7, None],
        "float": [1.0, 0.5],
        "bool": [True, False],
        "day": [date(2024, 1, 1), None],
        "time": [datetime(2024, 1, 1, 12), None],
        "decimal": [Decimal("1.10"), None],
        "bytes": [b"caf\xc3\xa9", None],
        "text": ["NA", "None"],
        "list": [[1, 2], None],
        "category": pa.array(["a", "b"]).dictionary_encode(),
    }
    parquet.write_table(pa.table(columns), path)
    first = read_table(path, columns).rows[0]
    assert first == {
        "int": "7",
        "float": "1.0",
        "bool": "true",
        "day": "2024-01-01",
        "time": "2024-01-01 12:00:00",
        "decimal": "1.10",
        "bytes": "caf\u00e9",
        "text": "NA",
        "list": ["1", "2"],
        "category": "a",
    }
    assert read_table(path, columns).rows[1]["int"] is None


def test_a_column_nobody_asked_for_never_breaks_the_file(tmp_path):
    odd = [None] * 5000 + ["text", 7, [1], {"a": None}]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "odd": value, "half": "\ud83d"}) + "\n" for value in odd))
    assert read_table(path, ["text"]).rows == [{"text": "a"}] * len(odd)
    path = tmp_path / "train.parquet"
    parquet.write_table(pa.table({"text": ["a"], "odd": [b"\xff"], "far": pa.array([2**62], pa.timestamp("us"))}), path)
    assert read_table(path, ["text"]).rows == [{"text": "a"}]
    assert "'odd'" in refusal(path, "odd")
    path = tmp_path / "train.jsonl"
    path.write_text('{"odd": 1, "text": "a", "odd": 2}\n')
    assert read_table(path, ["text"]).rows == [{"text": "a"}]
    path = tmp_path / "train.csv"
    path.write_text("odd,text,odd\n1,a,2\n")
    assert read_table(path, ["text"]).rows == [{"text": "a"}]
    assert "'odd' twice" in refusal(path, "odd")


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_what_libraries_write_reads_back(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("tables")
    frame = pd.DataFrame({"text": texts, "label": "x"})
    frame.to_json(folder / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(folder / "a.parquet")
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([text, "x"] for text in texts)])
    assert cell(folder / "a.jsonl") == cell(folder / "a.parquet") == cell(folder / "a.csv") == texts


def test_lines_end_at_line_feeds_alone():
    assert split_lines("a\u2028b\x85c\x0cd\r\ne\n") == ["a\u2028b\x85c\x0cd", "e", ""]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', "byte 28 is 0xe9"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "not UTF-8"),
        ("a.csv", b"text,label\ncaf\xe9,x\n", "not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: not a JSON object"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("a.json", b'[{"text": "a"}, 7]', "row 2: not a JSON object"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', "line 1: column 'text' holds text that is not Unicode"),
        ("a.csv", b"text,label\na,b,c\n", "row 1 has 3 cells, but the header has 2"),
        ("a.csv", b"text,label\na,b\na\n", "row 2 has 1 cells, but the header has 2"),
        ("a.csv", b'text,label\n"a,b\n', "not csv"),
        ("a.csv", b"text,text,label\na,b,c\n", "twice"),
        ("a.csv", b"text,label\n", "no rows"),
        ("a.jsonl", b"\n \n", "no rows"),
        ("a.parquet", b"PAR1", "parquet"),
        ("a.jsonl", b'{"text": "a", "label": "x", "text": "b"}\n', "line 1: names the column 'text' twice"),
        ("a.json", b'[{"text": "a", "label": "x", "label": "x"}]', "row 1: names the column 'label' twice"),
        ("a.tsv", b'text\tlabel\n"so" it goes\tx\n', "a cell that begins with a quotation mark must end with one"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    assert said in refusal(path)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([10**9], pa.timestamp("s", tz="Mars/Olympus")),
        pa.array([2**40], pa.timestamp("s")),
        pa.array([2**30], pa.date32()),
    ],
)
def test_values_of_parquet_that_python_cannot_hold_are_one_line(tmp_path, values):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": values}), path)
    assert "text cannot be read" in refusal(path)


def test_a_column_that_stands_twice_in_parquet_is_refused_where_it_is_wanted(tmp_path):
    path = tmp_path / "a.parquet"
    columns = [pa.array([value]) for value in "abc"]
    parquet.write_table(pa.Table.from_arrays(columns, names=["text", "text", "label"]), path)
    assert "its schema names the column 'text' twice" in refusal(path)
    assert cell(path, "label") == ["c"]


def test_numbered_classes_of_parquet_get_their_names(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    columns = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    path = tmp_path / "a.parquet"
    Dataset.from_list([{"text": "a", "label": number} for number in (1, 0, -1, None)], columns).to_parquet(path)
    assert cell(path, "label") == ["good", "bad", None, None]
    schema = parquet.read_schema(path)
    parquet.write_table(pa.table({"text": ["a"], "label": [7]}, schema), path)
    assert "row 1: there is a class 7" in refusal(path)
    for metadata in (b"", b"7", b"{}", b'{"info": {"features": {"label": 7}}}'):
        parquet.write_table(
            pa.table({"text": ["a"], "label": [7]}).replace_schema_metadata({b"huggingface": metadata}), path
        )
        assert cell(path, "label") == ["7"]


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path):
    (tmp_path / "a.csv").mkdir()
    (tmp_path / "a.parquet").mkdir()
    assert "cannot be read" in refusal(tmp_path / "a.csv")
    assert "cannot be read" in refusal(tmp_path / "a.parquet")
