"""Errors the user can fix: one line; where they come from only where somebody asks for it."""

from conftest import run_program

from shared.errors import UserError


def fails():
    try:
        {}["cause"]
    except KeyError as error:
        raise UserError("the file x is damaged;\ncopy it again") from error


def test_an_error_is_one_line(monkeypatch):
    monkeypatch.delenv("TANDEM_TRACEBACK", raising=False)
    assert run_program(fails).refused() == "the file x is damaged; copy it again"


def test_the_traceback_with_its_cause_is_shown_on_request(monkeypatch):
    monkeypatch.setenv("TANDEM_TRACEBACK", "1")
    ended = run_program(fails)
    assert ended.status == 2
    assert "KeyError: 'cause'" in ended.err and "in fails" in ended.err
    assert ended.err.splitlines()[-1] == "error: the file x is damaged; copy it again"
