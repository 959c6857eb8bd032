"""A recorded run's side of the bus: the same proposals at the same lane-steps, without any LLM."""

from collections import deque
from collections.abc import Callable
from pathlib import Path

from bus.channel import Answer, Counts
from bus.leases import Lease
from bus.messages import Digest, Outcome, Proposal, Work
from bus.record import Entry, read
from shared.errors import UserError

PEER = b"record"


class ReplayChannel:
    """A `bus.channel.Channel` that plays back the record at `path`.

    `step` tells the lane-steps spent so far. A run with the settings of the recorded one then asks and is
    answered as that one was.

    Raises:
        UserError: the record cannot be read, or answers what it never leased; the line names the file.
    """

    def __init__(self, path: Path, step: Callable[[], int]) -> None:
        self._step = step
        self._leased: dict[str, Digest] = {}
        self._work: deque[tuple[int, Work]] = deque()
        self._answers: deque[tuple[int, Answer]] = deque()
        self._out: set[str] = set()
        self._settled = 0
        for number, entry in enumerate(read(path), start=1):
            self._load(entry, f"{path}, line {number}")

    def poll(self, now: float) -> list[Answer]:  # noqa: ARG002  the recorded step decides, not the clock
        """See `bus.channel.Channel`."""
        due: list[Answer] = []
        while self._answers and self._answers[0][0] <= self._step():
            due.append(self._answers.popleft()[1])
        self._settled += len(due)
        return due

    def can_lease(self) -> bool:
        """See `bus.channel.Channel`."""
        return bool(self._work) and self._work[0][0] <= self._step()

    def lease(self, digest: Digest, now: float) -> Lease | None:
        """See `bus.channel.Channel`. The lease has the recorded name."""
        if not self.can_lease():
            return None
        _, work = self._work.popleft()
        self._out.add(work.lease)
        return Lease(work.lease, PEER, digest, now + work.seconds)

    def tell(self, outcome: Outcome) -> None:
        """Nobody listens."""

    def wait(self, seconds: float) -> None:
        """Nothing to wait for: answers come by the step."""

    def counts(self) -> Counts:
        """See `bus.channel.Channel`."""
        live = sum(answer.proposal.lease in self._out for _, answer in self._answers)
        unanswered = len(self._out) - live - self._settled
        return Counts(1, live, {"settled": self._settled, "released": 0, "expired": unanswered, "gone": 0}, {})

    def close(self) -> None:
        """Nothing to leave."""

    def _load(self, entry: Entry, where: str) -> None:
        match entry.message:
            case Work() as work:
                self._leased[work.lease] = work.digest
                self._work.append((entry.step, work))
            case Proposal() as proposal:
                if proposal.lease not in self._leased:
                    raise UserError(f"{where}: answers a lease that the record does not have")
                self._answers.append((entry.step, Answer(proposal, self._leased[proposal.lease])))
            case Outcome():
                pass  # the replay makes its own
