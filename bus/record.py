"""The append-only record of a run: one totally ordered log of what passed between the trainer and the bus.

Every line is a JSON object: a sequence number, the lane-steps when it happened, and what happened: a digest was leased,
a proposal settled its lease, a lease ended without an answer, or an outcome was sent.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from bus.channel import Answer, Channel, Counts, Event, LeaseEnded
from bus.leases import Lease
from bus.messages import Count, Digest, Outcomes, Part, Proposal, Short
from shared.append_log import AppendLog
from shared.errors import UserError


class Leased(Part):
    """A call of `Channel.lease`."""

    kind: Literal["leased"] = "leased"
    leases: list[Short]
    """The leases it granted; none if the free proposer had left."""
    digest: Digest


class Ended(Part):
    """A lease ended without an answer."""

    kind: Literal["ended"] = "ended"
    lease: Short
    how: Literal["released", "expired", "gone"]


class Entry(Part):
    """One line of a record."""

    sequence: Count
    """Counts the entries from 0."""
    step: Count
    """Lane-steps of the exchange that it belongs to."""
    event: Annotated[Leased | Ended | Proposal | Outcomes, Field(discriminator="kind")]


class RecordingChannel:
    """A `bus.channel.Channel` that passes everything on to `channel` and appends it to the file at `path`.

    A run that is resumed goes on in the same file: entries after the checkpoint are cut off, and the leases that were
    live end as gone, which the first `poll` returns. A full disk does not end training: entries wait in memory until
    they can be written.

    Args:
        channel: where proposals come from.
        path: the record; made if absent.
        step: gives the lane-steps so far.
        truncate_to: `offset` of the checkpoint that is resumed, in bytes. None keeps every whole line.

    Raises:
        UserError: the file cannot be read or written, or is not the record that the checkpoint speaks of.
    """

    def __init__(
        self, channel: Channel, path: Path, step: Callable[[], int], *, truncate_to: int | None = None
    ) -> None:
        self._channel = channel
        self._step = step
        _check_end(path, truncate_to)
        try:
            self._log = AppendLog(path, keep=truncate_to)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None
        entries = list(read(path))
        self._sequence = len(entries)
        self._unreported: list[Event] = _void(entries)
        self.news = channel.news
        """See `bus.channel.Channel`."""

    def poll(self) -> list[Event]:
        """See `bus.channel.Channel`."""
        events = self._channel.poll()
        if self._unreported:
            events, self._unreported = self._unreported + events, []
        for event in events:
            match event:
                case Answer():
                    self._write(event.proposal)
                case LeaseEnded():
                    self._write(Ended(lease=event.lease, how=event.how))
        return events

    def can_lease(self) -> bool:
        """See `bus.channel.Channel`."""
        return self._channel.can_lease()

    def lease(self, digest: Digest, proposals: int) -> list[Lease]:
        """See `bus.channel.Channel`."""
        leases = self._channel.lease(digest, proposals)
        self._write(Leased(leases=[lease.id for lease in leases], digest=digest))
        return leases

    def tell(self, outcome: Outcomes) -> None:
        """See `bus.channel.Channel`."""
        self._write(outcome)
        self._channel.tell(outcome)

    def wait(self, seconds: float) -> bool:
        """See `bus.channel.Channel`."""
        return bool(self._unreported) or self._channel.wait(seconds)

    def counts(self) -> Counts:
        """See `bus.channel.Channel`."""
        return self._channel.counts()

    def offset(self) -> int:
        """The size of the record in bytes, once all of it is on disk. A checkpoint keeps it for `truncate_to`.

        Raises:
            OSError: the disk is full or failed.
        """
        size = self._log.sync()
        if self._log.trouble:
            raise self._log.trouble
        return size

    @property
    def errors(self) -> int:
        """Writes that failed."""
        return self._log.errors

    def close(self) -> None:
        """See `bus.channel.Channel`. The leases that end with the channel are written, too. Idempotent."""
        self._channel.close()
        self.poll()
        self._log.close()

    def _write(self, event: Leased | Ended | Proposal | Outcomes) -> None:
        entry = Entry(sequence=self._sequence, step=self._step(), event=event)
        self._sequence += 1
        self._log.append(entry.model_dump_json())
        self._log.flush()


def read(path: Path) -> Iterator[Entry]:
    """The entries of a record. A last line that was cut off while it was written is left out.

    Raises:
        UserError: the file cannot be read, or one of its lines is not the entry that comes next.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    for sequence, line in enumerate(lines[:-1]):  # the part after the last newline is empty or a torn line
        where = f"{path}, line {sequence + 1}"
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise UserError(f"{where}: not an entry of a record ({fault['msg']})") from None
        if entry.sequence != sequence:
            raise UserError(f"{where}: entry {entry.sequence} stands where entry {sequence} should; use a whole record")
        yield entry


def _check_end(path: Path, size: int | None) -> None:
    """Check that an entry ends at `size`, so that the file may be cut there."""
    if not size:
        return
    content = path.read_bytes() if path.is_file() else b""
    if content[size - 1 : size] != b"\n":
        raise UserError(
            f"{path}: has no entry that ends at byte {size}, where its checkpoint was saved; "
            "put the record of this run back"
        )


def _void(entries: list[Entry]) -> list[Event]:
    """Ends for the leases that were live when the recorded process stopped."""
    live: dict[str, Digest] = {}
    for entry in entries:
        match entry.event:
            case Leased() as leased:
                live.update(dict.fromkeys(leased.leases, leased.digest))
            case Proposal() | Ended() as end:
                live.pop(end.lease, None)
            case Outcomes():
                pass
    return [LeaseEnded(lease, digest, "gone") for lease, digest in live.items()]
