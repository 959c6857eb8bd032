"""The append-only record of a run: every digest leased, every proposal and every outcome, one JSON line each."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from bus.channel import Answer, Channel, Counts
from bus.leases import Lease
from bus.messages import Count, Digest, Outcome, Part, Proposal, Work
from shared.errors import UserError


class Entry(Part):
    """One line of a record."""

    step: Count
    """Lane-steps spent when it happened."""
    message: Annotated[Work | Proposal | Outcome, Field(discriminator="kind")]


class RecordingChannel:
    """A `bus.channel.Channel` that passes everything on to `end` and appends it to the file at `path`.

    `step` tells the lane-steps spent so far.
    """

    def __init__(self, end: Channel, path: Path, step: Callable[[], int]) -> None:
        self._end = end
        self._step = step
        self.can_lease = end.can_lease  # as it is, without a detour: it is asked every step
        _drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def poll(self, now: float) -> list[Answer]:
        """See `bus.channel.Channel`."""
        answers = self._end.poll(now)
        for answer in answers:
            self._write(answer.proposal)
        return answers

    def lease(self, digest: Digest, now: float) -> Lease | None:
        """See `bus.channel.Channel`."""
        lease = self._end.lease(digest, now)
        if lease is not None:
            self._write(Work(lease=lease.id, seconds=lease.expires - now, digest=digest))
        return lease

    def tell(self, outcome: Outcome) -> None:
        """See `bus.channel.Channel`."""
        self._write(outcome)
        self._end.tell(outcome)

    def wait(self, seconds: float) -> None:
        """See `bus.channel.Channel`."""
        self._end.wait(seconds)

    def counts(self) -> Counts:
        """See `bus.channel.Channel`."""
        return self._end.counts()

    def close(self) -> None:
        """See `bus.channel.Channel`."""
        self._end.close()
        self._file.close()

    def _write(self, message: Work | Proposal | Outcome) -> None:
        self._file.write(Entry(step=self._step(), message=message).model_dump_json() + "\n")
        self._file.flush()


def read(path: Path) -> Iterator[Entry]:
    """The entries of a record. A last line that was cut off while it was written is left out.

    Raises:
        UserError: the file cannot be read, or one of its lines is no entry.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines[:-1], start=1):  # after the last newline stands nothing, or a torn line
        try:
            yield Entry.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise UserError(f"{path}, line {number}: no entry of a record ({fault['msg']})") from None


def _drop_torn_line(path: Path) -> None:
    """Cut what stands after the last newline: a run that is resumed would write on in that line."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
