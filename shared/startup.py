"""Ends a process quietly when it is stopped while it starts. Imports nothing but what Python has loaded already.

    from shared.startup import end_on_signals

    end_on_signals()
    ...                 # imports that take seconds

An exception from a signal handler, such as SystemExit, could be raised inside an import, whose modules then report
it, or catch it. Here nothing has begun that would have to be finished, so the handler ends the process itself.
"""

import os
import signal
import sys
from contextlib import suppress


def end_on_signals(status: int | None = None) -> None:
    """End the process at SIGTERM or SIGINT with `status`, or 128 + the signal's number, until handlers are replaced."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: _end(128 + number if status is None else status))


def _end(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError):  # closed, full, or interrupted while it was writing
            stream.flush()
    os._exit(status)
