"""SIGTERM and Ctrl-C: at once, except where a run changes, there between two changes."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from shared.handlers import handling
from trainer import ranks


class Stopped(BaseException):
    """The run was asked to stop. As KeyboardInterrupt, it is not an `Exception`, which libraries catch."""


class StopSignals:
    """Turns SIGTERM and SIGINT into `Stopped`."""

    def __init__(self, leave: "Callable[[StopSignals], None] | None" = None) -> None:
        """Handle signals outside of training with `leave`, which ends the process; without it, raise `Stopped` there.

        An exception that a signal raises in the midst of an import may be caught or wrapped by the library.
        """
        self.stopping = False
        self.number = 0
        """The signal that came."""
        self.farewell = ""
        """What to say to the user when the process is stopped."""
        self.ending = False
        """Whether the run has failed and closes its files, which a signal must not break off."""
        self._leave = leave
        self._deferred = False
        self._interruptible = False

    @property
    def name(self) -> str | None:
        """Name of the signal that came; None where a caller asked for the stop."""
        return signal.Signals(self.number).name if self.number else None

    def installed(self) -> AbstractContextManager[None]:
        """Handle both signals inside; outside of the main thread, where Python allows no handlers, do nothing."""
        return handling(self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the handler's signature
        again, self.stopping, self.number = self.stopping, True, number
        if self.ending or self._deferred or again or ranks.is_exchanging():
            return
        if self._leave is not None and not self._interruptible:
            self._leave(self)
        raise Stopped

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets `stopping`, so that no change is torn in two."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside, within `deferred`, a signal raises `Stopped` at once, as does one that came before.

        For long work that changes nothing until it is done, and can be done again after a resume.
        """
        self._deferred, self._interruptible = False, True
        try:
            if self.stopping:
                raise Stopped
            yield
        finally:
            self._deferred, self._interruptible = True, False
