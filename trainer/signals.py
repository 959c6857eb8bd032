"""SIGTERM and Ctrl-C: at once outside the training loop, between two steps inside it."""

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
    def held(self) -> Iterator[None]:
        """Inside, a signal only sets `stopping`: no step is torn in two."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
