"""Log records as plain lines, one each.

They go to standard output, which honcho shows with time and process name; to standard error in programs whose output
is their result. Every line is made safe to print here.
"""

import io
import logging
import os
import sys
from typing import TextIO

from shared.text import hide_credentials, printable

ROOMS = ("shared", "bus", "trainer", "proposer")

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers follows it too
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Environment variables that the libraries read when they are imported."""


def set_up(stream: TextIO | None = None) -> None:
    """Write our own records from INFO on, and those of libraries from WARNING on, to `stream` or standard output.

    Call it at the start of a program, before transformers or datasets are imported.
    """
    quiet_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Lines reach a pipe at once; a character that the encoding lacks is printed as its code.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    handler = _Lines(stream)
    handler.setFormatter(_OneLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for room in ROOMS:
        logging.getLogger(room).setLevel(logging.INFO)


def quiet_libraries() -> None:
    """Keep the progress bars and hints of libraries out of our output; call it before they are imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)  # a value set by the user wins


class _Lines(logging.Handler):
    """Writes to a stream or standard output, above a progress bar or a live view if there is one."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._given = stream

    @property
    def _stream(self) -> TextIO:
        return self._given or sys.stdout  # which a live view replaces by its own

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
            pass  # the reader of our output has gone, which must not end the run
        except Exception:
            self.handleError(record)


class _OneLine(logging.Formatter):
    """The message on one line, safe to print. Only errors show their traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
        line = record.getMessage()
        if record.levelno >= logging.WARNING:
            line = f"{record.levelname.lower()}: {line}"
        if not record.exc_info:
            return _safe(line)
        if record.levelno >= logging.ERROR:
            return "\n".join(map(_safe, [line, *self.formatException(record.exc_info).split("\n")]))
        return _safe(f"{line} ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})")


def _safe(text: str) -> str:
    return printable(hide_credentials(text))
