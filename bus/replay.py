"""The trainer's side of a recorded run: the same events at the same lane-steps, without an LLM."""

from collections import Counter, deque
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import get_args

from bus.channel import ALWAYS, Answer, Counts, Event, LeaseEnded
from bus.leases import Ending, Lease
from bus.messages import Digest, Outcomes, Proposal
from bus.record import Ended, Entry, Leased, read
from shared.errors import UserError

PEER = b"record"


class ReplayChannel:
    """A `bus.channel.Channel` that plays back the record at `path`.

    Entries come back strictly in the recorded order: an answer only after its lease was asked for again. A trainer
    with the settings of the recorded run then asks and is answered as that run was.

    Args:
        path: the record.
        step: gives the lane-steps so far.

    Raises:
        UserError: the record cannot be read, or ends a lease that is not live; the line names the file.
    """

    news = ALWAYS
    """See `bus.channel.Channel`."""

    def __init__(self, path: Path, step: Callable[[], int]) -> None:
        self._path = path
        self._step = step
        self._entries: deque[Entry] = deque()
        self._live: dict[str, Digest] = {}
        self._ended: Counter[str] = Counter(dict.fromkeys(get_args(Ending), 0))
        recorded: set[str] = set()
        for entry in read(path):
            match entry.event:
                case Leased() as leased:
                    recorded.update(leased.leases)
                case Proposal() | Ended() as end:
                    if end.lease not in recorded:
                        raise UserError(f"{path}, line {entry.sequence + 1}: ends a lease that is not live")
                    recorded.remove(end.lease)
                case Outcomes():
                    continue  # the replay makes its own
            self._entries.append(entry)

    def poll(self) -> list[Event]:
        """See `bus.channel.Channel`.

        Raises:
            UserError: the recorded run leased a digest at an earlier step, and this one did not.
        """
        events: list[Event] = []
        while entry := self._due():
            match entry.event:
                case Proposal() as proposal:
                    self._ended["settled"] += 1
                    events.append(Answer(proposal, self._live.pop(proposal.lease)))
                case Ended() as ended:
                    self._ended[ended.how] += 1
                    events.append(LeaseEnded(ended.lease, self._live.pop(ended.lease), ended.how))
                case _:
                    break
            self._entries.popleft()
        if entry and entry.step < self._step():
            raise UserError(
                f"{self._path}, line {entry.sequence + 1}: the recorded run leased a digest after {entry.step} "
                "lane-steps and this one did not; replay with the version, model and data of the recorded run"
            )
        return events

    def can_lease(self) -> bool:
        """See `bus.channel.Channel`."""
        entry = self._due()
        return entry is not None and isinstance(entry.event, Leased)

    def lease(self, digest: Digest, proposals: int) -> list[Lease]:  # noqa: ARG002  as many as the recorded run got
        """See `bus.channel.Channel`. The leases have the recorded names."""
        entry = self._due()
        if entry is None or not isinstance(entry.event, Leased):
            return []
        self._entries.popleft()
        self._live.update(dict.fromkeys(entry.event.leases, digest))
        return [Lease(lease, PEER, digest, expires=inf) for lease in entry.event.leases]

    def tell(self, outcome: Outcomes) -> None:
        """Nobody listens."""

    def wait(self, seconds: float) -> bool:  # noqa: ARG002  events come by the step, not by the clock
        """See `bus.channel.Channel`. Never sleeps; False unless the next entry is an event of this step."""
        entry = self._due()
        return entry is not None and not isinstance(entry.event, Leased)

    def counts(self) -> Counts:
        """See `bus.channel.Channel`."""
        return Counts(1, len(self._live), dict(self._ended), {})

    def close(self) -> None:
        """See `bus.channel.Channel`."""

    def _due(self) -> Entry | None:
        """The next entry, if its step has come."""
        return self._entries[0] if self._entries and self._entries[0].step <= self._step() else None
