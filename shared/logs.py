"""Plain lines: what happens, and warnings, each on one line.

On standard output, because that is where people look under honcho, which also adds time and process name; on
standard error where a program's output is its result.
Text that came from an LLM is made harmless here, once, for every line.
"""

import io
import logging
import os
import sys
from typing import TextIO

ROOMS = ("shared", "bus", "trainer", "proposer")

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers follows it too
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Read by the libraries when they are imported."""


def set_up(stream: TextIO | None = None) -> None:
    """Write our own lines from INFO on, and those of libraries from WARNING on, to `stream` or standard output.

    Call it first thing in a program, before anything imports transformers or datasets.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)  # who wants to hear more still can
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Into a pipe, lines come out at once; a terminal that cannot show a character shows its code.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    handler = _Lines(stream or sys.stdout)
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for room in ROOMS:
        logging.getLogger(room).setLevel(logging.INFO)


class _Lines(logging.Handler):
    """Writes to a stream, above a progress bar if there is one."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            line = self.format(record)
            if self._stream.isatty():
                from tqdm import tqdm  # only a terminal has a bar

                tqdm.write(line, file=self._stream)
            else:
                self._stream.write(line + "\n")
        except OSError:
            pass  # whoever read our output has gone; that must not end the run
        except Exception:
            self.handleError(record)


class _OneLine(logging.Formatter):
    """The message, on one line and without control characters. Only errors show their traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
        line = record.getMessage()
        if record.levelno >= logging.WARNING:
            line = f"{record.levelname.lower()}: {line}"
        if not record.exc_info:
            return _clean(line)
        if record.levelno >= logging.ERROR:
            return f"{_clean(line)}\n{self.formatException(record.exc_info)}"
        return _clean(f"{line} ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})")


def _clean(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
