"""Errors the user can fix."""

import atexit
import gc
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

TRACEBACK = "TANDEM_TRACEBACK"
"""Environment variable; if it is set, an error also shows where in the code it was found, and what caused it."""


class UserError(Exception):
    """Bad input: its text says in one line what was wrong, where, and what to do."""


def first_line(error: BaseException) -> str:
    """What another library's error says in its first line; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def run_command(command: Callable[[], int]) -> NoReturn:
    """Run a program's main function; bad input ends it with one line and status 2, Ctrl-C with 130."""
    atexit.register(gc.freeze)  # else Python searches all that torch loaded for cycles at its end, a second or two
    try:
        status = command()
    except UserError as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)  # one line, whatever input it quotes
        status = 2
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of our output (head, less) went away
        status = 0
        sys.stderr.close()
    sys.exit(status)
