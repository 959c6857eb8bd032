"""An append-only file of lines that survives crashes and full disks."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
"""Lines reach the file at least this often while lines are appended."""

MAX_PENDING = 64 * 2**20
"""Bytes kept in memory while the disk takes none; beyond them lines are lost."""


class AppendLog:
    """Lines of UTF-8 text, written whole: a disk that is full or failing leaves no half line in the middle.

    Trouble with the disk never raises: it is logged once and counted in `errors`, and the lines wait in memory.
    """

    def __init__(self, path: Path, keep: int | None = None) -> None:
        """Open or create the file at `path`; cut it to its first `keep` bytes, or else only an unfinished last line.

        Raises:
            OSError: it cannot be opened.
        """
        self.path = path
        self.errors = 0
        """Writes that failed."""
        self.trouble: OSError | None = None
        """Why the last write failed; None if it did not."""
        self._pending = bytearray()
        self._flushed = time.monotonic()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = min(keep, os.fstat(self._file).st_size) if keep is not None else self._whole_lines()
        os.ftruncate(self._file, self._size)

    def append(self, line: str) -> None:
        """Add a line, without its line break."""
        if len(self._pending) < MAX_PENDING:
            self._pending += line.encode(errors="replace") + b"\n"
        now = time.monotonic()
        if now - self._flushed >= FLUSH_SECONDS:
            self._flushed = now
            self.flush()

    def flush(self) -> bool:
        """Hand pending lines to the system; false if it does not take them now."""
        return self._try(self._write)

    def sync(self) -> int:
        """Bring all lines to the disk; the size of the file in bytes as far as it is safe there."""
        self._try(self._write_through)
        return self._size

    def _write(self) -> None:
        while self._pending:
            self._size += (written := os.pwrite(self._file, self._pending, self._size))
            del self._pending[:written]

    def close(self) -> None:
        """Write what is pending and close. Idempotent."""
        if self._file >= 0:
            self.flush()
            os.close(self._file)
            self._file = -1

    def _write_through(self) -> None:
        self._write()
        os.fsync(self._file)

    def _try(self, write: Callable[[], None]) -> bool:
        try:
            write()
        except OSError as error:
            if not self.errors:
                log.warning("%s: cannot be written (%s); its lines wait in memory", self.path, error.strerror)
            self.errors += 1
            self.trouble = error
            return False
        self.trouble = None
        return True

    def _whole_lines(self) -> int:
        """Bytes up to the last line break."""
        end = os.fstat(self._file).st_size
        while end:
            start = max(0, end - 65_536)
            if (last := os.pread(self._file, end - start, start).rfind(b"\n")) >= 0:
                return start + last + 1
            end = start
        return 0
