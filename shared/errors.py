"""Errors the user can fix."""

import atexit
import gc
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from shared.text import hide_credentials, printable

TRACEBACK = "TANDEM_TRACEBACK"
"""Environment variable; if it is set, an error also shows where in the code it was found, and what caused it."""


class UserError(Exception):
    """Bad input; its text is one line that says what is wrong, where, and what to do."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error, and the second where the first announces it; else its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 1 + lines[0].endswith(":")])


def run_command(command: Callable[[], int]) -> NoReturn:
    """Run a program's main function; a `UserError` ends it with one line and status 2, Ctrl-C with 130."""
    atexit.register(gc.freeze)  # else Python collects all that torch loaded at exit, a second or two
    try:
        status = command()
    except UserError as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        print("error:", printable(hide_credentials(str(error))), file=sys.stderr)  # it may quote any input
        status = 2
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        status = 0
        sys.stderr.close()
    sys.exit(status)
