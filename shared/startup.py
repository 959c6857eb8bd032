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


def end_on_signals(status: int = 0) -> None:
    """End the process with `status` at SIGTERM or SIGINT, until other handlers are installed."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _end(status))


def _end(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError):  # closed, full, or interrupted while it was writing
            stream.flush()
    os._exit(status)
