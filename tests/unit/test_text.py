"""Untrusted text on its way to terminals, logs and files."""

import json
import logging

import pytest
from conftest import run_program
from hypothesis import given
from hypothesis import strategies as st

from shared import logs
from shared.config import CommandLine
from shared.errors import UserError
from shared.settings import Settings
from shared.text import escape_json, hide_credentials, printable
from shared.text_files import read_text
from trainer.runs.directory import CONFIG, RunDirectory, read_settings

HOSTILE = "a\x1b[2Jb\x9b2Jc\u202ed\u2066e\nf\rg\x07h\x00i\u200fj\ufeffk"


@given(st.text())
def test_printable_text_is_one_line_without_controls(text):
    shown = printable(text)
    assert shown.isprintable() and len(shown) == len(text)
    assert printable(shown) == shown
    assert all(a == b or b == " " for a, b in zip(text, shown, strict=True))


@given(st.recursive(st.text(st.characters(exclude_categories=["Cs"])), lambda inner: st.dictionaries(st.text(), inner)))
def test_escaped_json_is_printable_and_says_the_same(value):
    line = escape_json(json.dumps(value, ensure_ascii=False))
    assert line.isprintable() and json.loads(line) == value


def test_letters_and_emoji_stay():
    assert printable("caf\u00e9 \u65e5\u672c \U0001f600 'x'") == "caf\u00e9 \u65e5\u672c \U0001f600 'x'"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pw@host/v1", "http://[hidden]@host/v1"),
        ("http://pw@host", "http://[hidden]@host"),
        ("http://me:p@w@host", "http://[hidden]@host"),
        ("http://me:p/w@host", "http://[hidden]@host"),
        ("no route to https://me:pw@host: refused", "no route to https://[hidden]@host: refused"),
        ("http://host:1/v1", "http://host:1/v1"),
        ("GET http://host/v1?key=abc&v=1: 401", "GET http://host/v1?[hidden] 401"),
        ("'https://host/?token=abc' is wrong", "'https://host/?[hidden]' is wrong"),
        ("a 'http://me:it's@host#abc'", "a 'http://[hidden]@host?[hidden]'"),
        ("is http://host up? #1", "is http://host up? #1"),
        ("me@host", "me@host"),
    ],
)
def test_credentials_in_addresses_are_hidden(text, shown):
    assert hide_credentials(text) == shown


def test_an_error_never_steers_a_terminal_or_shows_a_password():
    def main():
        raise UserError(f"{HOSTILE} at http://me:pw@host")

    line = run_program(main).refused()
    assert line.isprintable() and "pw" not in line and "host" in line


def test_log_lines_and_tracebacks_never_steer_a_terminal(capsys):
    root = logging.getLogger()
    handlers = root.handlers[:]
    try:
        logs.set_up()
        log = logging.getLogger("trainer")
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            log.info("read %s at http://me:pw@host", HOSTILE)
            log.warning("went wrong", exc_info=True)
            log.exception("went wrong")
    finally:
        root.handlers[:] = handlers
        logging.captureWarnings(False)
    out = capsys.readouterr().out
    assert "Traceback" in out and "pw" not in out
    assert all(line.isprintable() for line in out.split("\n"))


def test_a_run_keeps_no_password(tmp_path):
    address = "http://me:pa55word@host:1/v1"
    settings = Settings(folder=str(tmp_path), name="a", proposer={"base_url": address})
    RunDirectory.create(settings).close()
    kept = (tmp_path / "a" / CONFIG).read_text(encoding="utf-8")
    assert "pa55word" not in kept and "[hidden]@host:1" in kept
    again = read_settings(tmp_path / "a")
    assert again.steps == settings.steps


def test_a_password_on_the_command_line_is_not_in_the_error():
    parser = CommandLine("test", "Test.")
    with pytest.raises(UserError) as caught:
        parser.resolve(parser.parse_args(["demo", "--bus.connect", "http://me:pa55word@host"]))
    assert "pa55word" not in str(caught.value)


def test_a_text_file_that_is_not_utf_8_names_the_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="byte 4 is 0xe9"):
        read_text(path)
    path.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9")
    assert read_text(path) == "caf\u00e9"
