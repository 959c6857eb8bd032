"""SIGTERM and Ctrl-C: at once, but where a run changes, between two changes."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """The process was asked to stop."""


class StopSignals:
    """Turns SIGTERM and SIGINT into `Stopped`."""

    def __init__(self) -> None:
        self.stopping = False
        self.number = 0
        """The signal that came."""
        self._held = False

    def install(self) -> None:
        """Take over both signals; a second one while we save changes nothing."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the handler's signature
        again, self.stopping, self.number = self.stopping, True, number
        if not self._held and not again:
            raise Stopped

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets `stopping`: no change is torn in two."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside, within `deferred`, a signal raises `Stopped` at once, as one does that came before.

        For long work that changes nothing until it is done, and can be done again after a resume.
        """
        self._held = False
        try:
            if self.stopping:
                raise Stopped
            yield
        finally:
            self._held = True
