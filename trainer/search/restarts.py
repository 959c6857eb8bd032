"""Restarts: which proposals become challengers, and which challengers become the incumbent.

A pure state machine. It sees words and numbers, never a tensor, a socket or a clock; the loop
measures, trains and reports back.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import inf, isfinite
from typing import Any

from bus.messages import CandidateOutcome
from shared.settings import RestartSettings
from shared.text import clean, cut

MAX_SEEN = 10_000
"""Prompts remembered as tried. A checkpoint holds them, and its file format limits its text to 100 MB."""

CANDIDATES_PER_REQUEST = 64
"""More candidates of one moment are not worth their measuring."""

LONGEST_WORDS = 200
"""Characters of a candidate; the rest of the untrusted text is cut off at a word."""


@dataclass
class Candidate:
    """A prompt in words that somebody proposed."""

    words: str
    lease: str
    asked: int
    """Lane-steps when its digest was taken."""
    number: int = 0
    """Counts the candidates of a run, from 0."""
    score: float | None = None
    """Development loss of the words themselves, before any step."""


@dataclass
class Trial:
    """A challenger in training."""

    candidate: Candidate
    ends: int
    """The age at which it is judged."""


@dataclass(frozen=True)
class Incumbent:
    """What the rules ask of the incumbent."""

    loss: float
    """Its development loss now."""
    plateau: bool
    """Whether it has stopped improving."""
    from_noise: bool
    """Whether it comes from noise and trains no head."""
    is_noise: bool
    """Whether it is that noise still, without a step: what replaces it loses nothing that was learned."""


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
    diverged: int = 0
    late: int = 0


@dataclass
class Restarts:
    """What is known of proposals in one run: the open request, the candidates, the trials."""

    settings: RestartSettings
    budget: int
    """Lane-steps of the whole run."""
    tally: Tally = field(default_factory=Tally)
    seen: dict[str, None] = field(default_factory=dict)
    """The last `MAX_SEEN` new prompts in words, casefolded, oldest first."""
    unscored: list[Candidate] = field(default_factory=list)
    """Received and not yet measured."""
    waiting: list[Candidate] = field(default_factory=list)
    """Measured and not yet tried, best first."""
    trials: dict[int, Trial] = field(default_factory=dict)
    """By lane number."""
    next_request: int | None = 0
    """Lane-steps at which the next request is due; None after the last."""
    rounds: list[int] = field(default_factory=list)
    """Fixed request steps; if empty, `request_every` is used."""
    is_open: bool = False
    """Whether the last request has no answer yet."""
    leased: set[str] = field(default_factory=set)
    """Its leases that have not ended. A checkpoint leaves them out: they end with the process."""

    def __post_init__(self) -> None:
        if self.rounds and self.next_request == 0:
            self.next_request = self.rounds[0]

    def wants(self, lane_steps: int, is_noise: bool = False) -> bool:
        """Whether proposers should be asked now: a request is due, or the last one lost all its leases unanswered.

        Never when the budget left could not use an answer. Mere noise (`is_noise`) always can.
        """
        due = self.next_request is not None and lane_steps >= self.next_request
        lost = self.is_open and not self.leased
        return (due or lost) and self.settings.policy != "none" and (is_noise or self.has_room(lane_steps))

    def asked(self, lane_steps: int, leases: list[str]) -> None:
        """A digest was leased for the request that is due, or again for the open one."""
        self.tally.digests_leased += len(leases)
        if self.next_request is not None and lane_steps >= self.next_request:
            self.next_request = self._next(lane_steps)
            self.leased = set()
        self.is_open = True
        self.leased.update(leases)

    def settled(self, lease: str) -> None:
        """A lease was answered; the first answer to the open request closes it."""
        self.is_open = self.is_open and lease not in self.leased
        self.leased.discard(lease)

    def lease_ended(self, lease: str) -> None:
        """A lease ended without an answer."""
        self.leased.discard(lease)

    def skip_request(self, lane_steps: int) -> None:
        """Give the request up that is due or open; the next one is due as if it had been answered."""
        if self.next_request is not None and lane_steps >= self.next_request:
            self.next_request = self._next(lane_steps)
        self.is_open = False
        self.leased = set()

    def _next(self, lane_steps: int) -> int | None:
        if self.rounds:
            return next((step for step in self.rounds if step > lane_steps), None)
        return lane_steps + self.settings.request_every

    def has_room(self, lane_steps: int) -> bool:
        """Whether the budget left lets one more restart train for `trial_steps`."""
        lanes = 2 + len(self.trials) if self.settings.policy == "trial" else 1
        return self.budget - lane_steps >= lanes * self.settings.trial_steps

    def receive(
        self,
        words: list[str],
        lease: str,
        asked: int,
        lane_steps: int,
        trim: Callable[[str], str] = str,
        is_noise: bool = False,
    ) -> list[CandidateOutcome]:
        """Take a proposal: new candidates become `unscored`; the outcomes of the others are returned.

        Args:
            words: its candidates; untrusted text.
            lease: the lease that it settled.
            asked: lane-steps when its digest was taken.
            lane_steps: lane-steps now.
            trim: cuts clean words to what fits into a prompt.
            is_noise: whether the incumbent is mere noise, which words can replace however little of the budget is left.
        """
        first = self.tally.candidates
        self.tally.received += 1
        self.tally.candidates += len(words)
        late = not (is_noise or self.has_room(lane_steps))
        self.tally.late += late
        outcomes: list[CandidateOutcome] = []
        for number, raw in enumerate(words, start=first):
            if not (cleaned := trim(clean_words(raw))):
                outcomes.append(CandidateOutcome(words="", outcome="empty"))
            elif not self.notice(cleaned):
                self.tally.duplicates += 1
                outcomes.append(CandidateOutcome(words=cleaned, outcome="duplicate"))
            elif late:
                outcomes.append(CandidateOutcome(words=cleaned, outcome="late"))
            else:
                self.unscored.append(Candidate(cleaned, lease, asked, number))
        return outcomes

    def notice(self, words: str) -> bool:
        """Remember `words` as tried; false when they were already."""
        folded = words.casefold()
        known = folded in self.seen
        self.seen[folded] = None
        if len(self.seen) > MAX_SEEN:
            del self.seen[next(iter(self.seen))]
        return not known

    def scored(self, losses: list[float]) -> list[tuple[Candidate, CandidateOutcome]]:
        """Queue the `unscored`, best first, by their development `losses`.

        Returns:
            The candidates that are out: their loss is not finite, or the queue is full of better ones.
        """
        for candidate, loss in zip(self.unscored, losses, strict=True):
            candidate.score = loss if isfinite(loss) else None
        self.tally.scored += len(losses)
        broken = [candidate for candidate in self.unscored if candidate.score is None]
        self.tally.diverged += len(broken)
        ranked = sorted((one for one in (*self.waiting, *self.unscored) if one.score is not None), key=_score)
        self.unscored = []
        keep = self.settings.queue_size if self.settings.policy == "trial" else 1
        self.waiting = ranked[:keep]
        return [(one, CandidateOutcome(words=one.words, outcome="diverged")) for one in broken] + [
            (one, outscored(one)) for one in ranked[keep:]
        ]

    def start(self, lane_steps: int, incumbent: Incumbent) -> Candidate | None:
        """The candidate to start now, if any: at once where `replaces` says so, else in a trial.

        Call `replaced` or `opened` with it, and `start` again until there is none.
        """
        best = next(iter(self.waiting), None)
        if best is None or not (incumbent.is_noise or self.has_room(lane_steps)):
            return None
        if self.replaces(best, incumbent):
            return best
        is_ready = self.settings.policy == "trial" and self.has_room(lane_steps)
        is_ready = is_ready and len(self.trials) < self.settings.max_challengers
        return best if is_ready and not self.holds(best, incumbent) else None

    def replaces(self, candidate: Candidate, incumbent: Incumbent) -> bool:
        """Whether `candidate` takes the incumbent's place without a trial.

        Policy `trial` lets it only where the incumbent is mere noise: nothing is lost, and every step counts.
        """
        match self.settings.policy:
            case "trial":
                return incumbent.is_noise and _score(candidate) < incumbent.loss
            case "greedy":
                return _score(candidate) < incumbent.loss
            case _:
                return True

    def holds(self, candidate: Candidate, incumbent: Incumbent) -> bool:
        """Whether `candidate` waits until the incumbent stops improving.

        Words with a lower loss than an incumbent that comes from noise do not wait. Where it comes from words too, or
        a head is untrained, such differences are mostly chance, and the incumbent's first steps pay most.
        """
        is_better = incumbent.from_noise and _score(candidate) < incumbent.loss
        return self.settings.policy == "trial" and self.settings.patience > 0 and not (incumbent.plateau or is_better)

    def held(self, incumbent: Incumbent) -> int:
        """How many candidates wait until the incumbent stops improving, or the one that now replaces it does."""
        if self.waiting and self.replaces(self.waiting[0], incumbent):
            return len(self.waiting) - 1 if self.settings.patience else 0
        return sum(self.holds(candidate, incumbent) for candidate in self.waiting)

    def opened(self, lane: int, candidate: Candidate) -> None:
        """A challenger lane was opened for `candidate`."""
        self.waiting.remove(candidate)
        self.tally.trials += 1
        self.trials[lane] = Trial(candidate, self.settings.trial_steps)

    def due(self, lane: int, age: int) -> bool:
        """Whether the challenger in `lane` is to be judged at this age."""
        return lane in self.trials and age >= self.trials[lane].ends

    def judge(self, lane: int, incumbent_loss: float, challenger_loss: float) -> CandidateOutcome:
        """End a trial: adopted only if the challenger's development loss is finite and the lower one."""
        candidate = self.trials.pop(lane).candidate
        if not isfinite(challenger_loss):
            return self._diverged(candidate)
        gain = incumbent_loss - challenger_loss
        if gain > 0:
            self.tally.adopted += 1
        return CandidateOutcome(
            words=candidate.words, outcome="adopted" if gain > 0 else "dropped", score=candidate.score, gain=gain
        )

    def diverged(self, lane: int) -> CandidateOutcome:
        """End a trial whose challenger's training loss became NaN or infinite."""
        return self._diverged(self.trials.pop(lane).candidate)

    def _diverged(self, candidate: Candidate) -> CandidateOutcome:
        self.tally.diverged += 1
        return CandidateOutcome(words=candidate.words, outcome="diverged", score=candidate.score)

    def replaced(self, candidate: Candidate, incumbent_loss: float) -> CandidateOutcome:
        """`candidate` became the incumbent without a trial."""
        self.waiting.remove(candidate)
        self.tally.adopted += 1
        gain = incumbent_loss - _score(candidate)
        return CandidateOutcome(words=candidate.words, outcome="adopted", score=candidate.score, gain=gain)

    def finish(self) -> list[tuple[Candidate, CandidateOutcome]]:
        """End all candidates with the budget: the waiting were outscored, the unscored and the tried are unfinished."""
        ended = [(candidate, outscored(candidate)) for candidate in self.waiting]
        for candidate in (*self.unscored, *(trial.candidate for trial in self.trials.values())):
            ended.append(
                (candidate, CandidateOutcome(words=candidate.words, outcome="unfinished", score=candidate.score))
            )
        self.unscored, self.waiting, self.trials = [], [], {}
        return ended

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint saves, as JSON."""
        return {
            "tally": asdict(self.tally),
            "seen": list(self.seen),
            "unscored": [asdict(candidate) for candidate in self.unscored],
            "waiting": [asdict(candidate) for candidate in self.waiting],
            "trials": {str(lane): asdict(trial) for lane, trial in self.trials.items()},
            "next_request": self.next_request,
            "rounds": self.rounds,
            "is_open": self.is_open,
        }

    @classmethod
    def from_state_dict(cls, settings: RestartSettings, budget: int, state: dict[str, Any]) -> "Restarts":
        """The machine that `state` was taken of."""
        return cls(
            settings,
            budget,
            Tally(**state["tally"]),
            dict.fromkeys(state["seen"]),
            [Candidate(**candidate) for candidate in state["unscored"]],
            [Candidate(**candidate) for candidate in state["waiting"]],
            {
                int(lane): Trial(Candidate(**trial["candidate"]), trial["ends"])
                for lane, trial in state["trials"].items()
            },
            state["next_request"],
            state["rounds"],
            state["is_open"],
        )


def max_answers(settings: RestartSettings) -> int:
    """Answers to one digest that are of use."""
    return max(1, CANDIDATES_PER_REQUEST // settings.candidates)


def outscored(candidate: Candidate) -> CandidateOutcome:
    """The outcome of a candidate that was measured and never tried."""
    return CandidateOutcome(words=candidate.words, outcome="outscored", score=candidate.score)


def clean_words(raw: str) -> str:
    """Untrusted text as one line of at most `LONGEST_WORDS` characters without control characters."""
    return cut(clean(raw), LONGEST_WORDS)


def _score(candidate: Candidate) -> float:
    return inf if candidate.score is None else candidate.score
