"""Remembers the outcomes of earlier candidates by run, within a bound."""

from collections import OrderedDict
from collections.abc import Iterable

from bus.messages import CandidateOutcome
from proposer.candidate import key

MOST_RUNS = 16
"""Runs remembered; the least recently used is forgotten first."""

UNINFORMATIVE = frozenset({"duplicate", "empty", "late"})
"""Fates that say nothing about the words; they do not replace another."""


class Memory:
    """Remembers the newest `limit` outcomes of each run, one for each wording."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._runs: OrderedDict[str, OrderedDict[str, CandidateOutcome]] = OrderedDict()

    def note(self, run: str, outcomes: Iterable[CandidateOutcome]) -> None:
        """Remember outcomes, the newest last."""
        kept = self._runs.setdefault(run, OrderedDict())
        self._runs.move_to_end(run)
        if len(self._runs) > MOST_RUNS:
            self._runs.popitem(last=False)
        for outcome in outcomes:
            words = key(outcome.words)
            if words not in kept or outcome.outcome not in UNINFORMATIVE:
                kept[words] = outcome
                kept.move_to_end(words)
        while len(kept) > self._limit:
            kept.popitem(last=False)

    def recall(self, run: str) -> list[CandidateOutcome]:
        """The outcomes of a run, the newest last."""
        return list(self._runs.get(run, {}).values())

    def forget(self, run: str) -> None:
        """The run has ended."""
        self._runs.pop(run, None)
