"""Restarts: which proposals become challengers, and which challengers become the incumbent.

A pure state machine. It sees words and numbers, never a tensor, a socket or a clock; the loop
measures, trains and reports back.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from bus.messages import CandidateOutcome
from shared.settings import RestartSettings
from shared.text import clean, cut

LONGEST_WORDS = 200
"""Characters of a candidate; the rest of the untrusted text is cut off at a word."""


@dataclass
class Candidate:
    """A prompt in words that somebody proposed."""

    words: str
    lease: str
    asked: int
    """Lane-steps spent when its digest was taken."""
    score: float | None = None
    """Development loss of the words themselves."""


@dataclass
class Trial:
    """A challenger that proves itself."""

    candidate: Candidate
    ends: int
    """The age at which it is judged."""


@dataclass
class Tally:
    """Counts for the summary."""

    digests_leased: int = 0
    received: int = 0
    candidates: int = 0
    duplicates: int = 0
    scored: int = 0
    trials: int = 0
    adopted: int = 0
    stale: int = 0


@dataclass
class Restarts:
    """All that is known of proposals in one run."""

    settings: RestartSettings
    budget: int
    """Lane-steps in all."""
    tally: Tally = field(default_factory=Tally)
    seen: set[str] = field(default_factory=set)
    """Every prompt in words that was ever measured, folded."""
    unscored: list[Candidate] = field(default_factory=list)
    """Received and not yet measured."""
    waiting: list[Candidate] = field(default_factory=list)
    """Measured and not yet tried, best first."""
    trials: dict[int, Trial] = field(default_factory=dict)
    """By lane number."""
    next_request: int | None = 0
    """Lane-steps at which the next request for proposals is due; none after the last."""
    rounds: list[int] = field(default_factory=list)
    """Lane-steps at which to ask, where that is told; else every so many."""

    def __post_init__(self) -> None:
        if self.rounds and self.next_request == 0:
            self.next_request = self.rounds[0]

    def wants(self, lane_steps: int) -> bool:
        """Whether proposers should be asked now. Never when there is no budget left to use an answer."""
        due = self.next_request is not None and lane_steps >= self.next_request
        return due and self.settings.policy != "none" and self.has_room(lane_steps)

    def asked(self, lane_steps: int) -> None:
        """A digest was leased."""
        self.tally.digests_leased += 1
        self.next_request = self._next(lane_steps)

    def _next(self, lane_steps: int) -> int | None:
        if self.rounds:
            return next((step for step in self.rounds if step > lane_steps), None)
        return lane_steps + self.settings.request_every

    def has_room(self, lane_steps: int) -> bool:
        """Whether the budget left lets one more restart train for `trial_steps`."""
        lanes = 2 + len(self.trials) if self.settings.policy == "trial" else 1
        return self.budget - lane_steps >= lanes * self.settings.trial_steps

    def ask_again(self, lane_steps: int) -> None:
        """A round of sync mode was broken off; it is held after a resume."""
        self.next_request = lane_steps

    def skip_round(self, lane_steps: int) -> None:
        """A round of sync mode brought no answer; the next is due as if it had."""
        self.next_request = self._next(lane_steps)

    def receive(self, words: list[str], lease: str, asked: int, lane_steps: int) -> list[CandidateOutcome]:
        """Take a proposal: candidates that are new become `unscored`; the fates of the others.

        Args:
            words: its candidates; untrusted text.
            lease: the lease it settled.
            asked: lane-steps spent when its digest was taken.
            spent: lane-steps spent now.
        """
        self.tally.received += 1
        self.tally.candidates += len(words)
        late = not self.has_room(lane_steps)
        self.tally.stale += late
        fates: list[CandidateOutcome] = []
        for cleaned in map(clean_words, words):
            if not cleaned:
                fates.append(CandidateOutcome(words="", outcome="empty"))
            elif not self.notice(cleaned):
                self.tally.duplicates += 1
                fates.append(CandidateOutcome(words=cleaned, outcome="duplicate"))
            elif late:
                fates.append(CandidateOutcome(words=cleaned, outcome="stale"))
            else:
                self.unscored.append(Candidate(cleaned, lease, asked))
        return fates

    def notice(self, words: str) -> bool:
        """Remember `words` as tried; false when they were already."""
        folded = words.casefold()
        known = folded in self.seen
        self.seen.add(folded)
        return not known

    def scored(self, losses: list[float]) -> list[Candidate]:
        """Queue the `unscored`, whose development losses these are, best first; those that the full queue drops."""
        for candidate, loss in zip(self.unscored, losses, strict=True):
            candidate.score = loss
        self.tally.scored += len(losses)
        ranked = sorted([*self.waiting, *self.unscored], key=_score)
        self.unscored = []
        keep = self.settings.queue_size if self.settings.policy == "trial" else 1
        self.waiting = ranked[:keep]
        return ranked[keep:]

    def start(self, lane_steps: int, incumbent_loss: float, since_lowest: int) -> Candidate | None:
        """The candidate to start now, if any; call again until there is none.

        Args:
            spent: lane-steps spent.
            incumbent_loss: the incumbent's development loss, which `greedy` compares with.
            since_lowest: evaluations since the lowest development loss, which `trial` waits for.
        """
        if not self.waiting or not self.has_room(lane_steps):
            return None
        if self.settings.policy == "trial" and (
            len(self.trials) >= self.settings.max_challengers or self.holds(since_lowest)
        ):
            return None
        if self.settings.policy == "greedy" and _score(self.waiting[0]) >= incumbent_loss:
            return None
        return self.waiting.pop(0)

    def holds(self, since_lowest: int) -> bool:
        """Whether candidates wait because the incumbent still improves."""
        return self.settings.policy == "trial" and since_lowest < self.settings.patience

    def opened(self, lane: int, candidate: Candidate) -> None:
        """A challenger lane was opened for `candidate`."""
        self.tally.trials += 1
        self.trials[lane] = Trial(candidate, self.settings.trial_steps)

    def due(self, lane: int, age: int) -> bool:
        """Whether the challenger in `lane` is to be judged at this age."""
        return lane in self.trials and age >= self.trials[lane].ends

    def judge(self, lane: int, incumbent_loss: float, challenger_loss: float) -> CandidateOutcome:
        """End a trial: adopted only if the challenger's development loss is the lower one."""
        candidate = self.trials.pop(lane).candidate
        gain = incumbent_loss - challenger_loss
        if gain > 0:
            self.tally.adopted += 1
        return CandidateOutcome(
            words=candidate.words, outcome="adopted" if gain > 0 else "dropped", score=candidate.score, gain=gain
        )

    def replaced(self, candidate: Candidate, incumbent_loss: float) -> CandidateOutcome:
        """`candidate` became the incumbent without a trial."""
        self.tally.adopted += 1
        gain = incumbent_loss - _score(candidate)
        return CandidateOutcome(words=candidate.words, outcome="adopted", score=candidate.score, gain=gain)

    def finish(self) -> list[tuple[Candidate, CandidateOutcome]]:
        """The budget is spent: what was waiting was outscored, what was to be measured or on trial stays unfinished."""
        ended = [(candidate, outscored(candidate)) for candidate in self.waiting]
        for candidate in (*self.unscored, *(trial.candidate for trial in self.trials.values())):
            ended.append(
                (candidate, CandidateOutcome(words=candidate.words, outcome="unfinished", score=candidate.score))
            )
        self.unscored, self.waiting, self.trials = [], [], {}
        return ended

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint keeps, as JSON."""
        return {
            "tally": asdict(self.tally),
            "seen": sorted(self.seen),
            "unscored": [asdict(candidate) for candidate in self.unscored],
            "waiting": [asdict(candidate) for candidate in self.waiting],
            "trials": {str(lane): asdict(trial) for lane, trial in self.trials.items()},
            "next_request": self.next_request,
            "rounds": self.rounds,
        }

    @classmethod
    def from_state_dict(cls, settings: RestartSettings, budget: int, state: dict[str, Any]) -> "Restarts":
        """The machine that `state` was taken of."""
        return cls(
            settings,
            budget,
            Tally(**state["tally"]),
            set(state["seen"]),
            [Candidate(**candidate) for candidate in state["unscored"]],
            [Candidate(**candidate) for candidate in state["waiting"]],
            {
                int(lane): Trial(Candidate(**trial["candidate"]), trial["ends"])
                for lane, trial in state["trials"].items()
            },
            state["next_request"],
            state["rounds"],
        )


def outscored(candidate: Candidate) -> CandidateOutcome:
    """The fate of a candidate that was measured and never tried."""
    return CandidateOutcome(words=candidate.words, outcome="outscored", score=candidate.score)


def clean_words(raw: str) -> str:
    """Untrusted text as one line of at most `LONGEST_WORDS` characters without control characters."""
    return cut(clean(raw), LONGEST_WORDS)


def _score(candidate: Candidate) -> float:
    return float("inf") if candidate.score is None else candidate.score
