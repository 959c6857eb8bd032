"""What requests to an LLM may cost, by run and by hour: a pure state machine; the clock is passed in."""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from shared.settings import BudgetSettings

MAX_RUNS = 1000
"""Runs whose counts are kept; the one charged longest ago is dropped first."""

HOUR = 60
"""Minutes. The last hour is counted in whole minutes, so that the state stays small."""


class Counts(BaseModel):
    """Amounts used."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    requests: int = 0
    tokens: int = 0
    cost: float = 0.0

    def add(self, requests: int, tokens: int, cost: float) -> None:
        """Use more, or less where an amount is negative."""
        self.requests = max(0, self.requests + requests)
        self.tokens = max(0, self.tokens + tokens)
        self.cost = max(0.0, self.cost + cost)


class State(BaseModel):
    """All that a budget remembers."""

    model_config = ConfigDict(extra="forbid")

    runs: dict[str, Counts] = Field(default_factory=dict)
    minutes: dict[int, Counts] = Field(default_factory=dict)
    """By minute of the Unix clock."""
    largest: Counts = Field(default_factory=Counts)
    """The largest request so far."""


@dataclass(frozen=True)
class Reservation:
    """A request under way, charged as if it were as large as the largest so far."""

    run: str
    minute: int
    tokens: int
    cost: float


class Budget:
    """Charges requests to a state. `now` is in seconds of the Unix clock."""

    def __init__(self, settings: BudgetSettings, state: State | None = None) -> None:
        self._settings = settings
        self.state = state or State()

    def refusal(self, run: str | None, now: float) -> str | None:
        """Which limit forbids one more request, for a run or (None) for any run; None if it may start."""
        limits = self._settings
        used = self.state.runs.get(run, Counts()) if run is not None else None
        refused = used and self._over(used, limits.requests, limits.tokens, limits.cost)
        if refused:
            return f"{refused} for run {run}"
        hour = self._last_hour(now)
        refused = self._over(hour, limits.requests_per_hour, limits.tokens_per_hour, limits.cost_per_hour)
        return f"{refused} within an hour" if refused else None

    def left(self, runs: Iterable[str], now: float) -> float:
        """The smallest share left of any limit, of `runs` or within an hour; 1 without limits."""
        limits = self._settings
        per_run = (limits.requests, limits.tokens, limits.cost)
        per_hour = (limits.requests_per_hour, limits.tokens_per_hour, limits.cost_per_hour)
        used = [(self.state.runs.get(run, Counts()), per_run) for run in runs]
        shares = [
            1 - amount / limit
            for counts, most in [*used, (self._last_hour(now), per_hour)]
            for amount, limit in zip((counts.requests, counts.tokens, counts.cost), most, strict=True)
            if limit is not None
        ]
        return max(0.0, min(shares, default=1.0))

    def start(self, run: str, now: float) -> Reservation:
        """Charge one more request; the caller has asked `refusal`."""
        largest = self.state.largest
        reservation = Reservation(run, int(now // 60), largest.tokens, largest.cost)
        self._charge(reservation, 1, largest.tokens, largest.cost)
        return reservation

    def settle(self, reservation: Reservation, tokens_in: int, tokens_out: int) -> None:
        """Charge what a request really cost."""
        tokens = tokens_in + tokens_out
        cost = self._settings.price(tokens_in, tokens_out)
        self._charge(reservation, 0, tokens - reservation.tokens, cost - reservation.cost)
        largest = self.state.largest
        largest.tokens = max(largest.tokens, tokens)
        largest.cost = max(largest.cost, cost)

    def _charge(self, reservation: Reservation, requests: int, tokens: int, cost: float) -> None:
        runs = self.state.runs
        counts = runs.pop(reservation.run, Counts())
        runs[reservation.run] = counts  # the newest last
        while len(runs) > MAX_RUNS:
            del runs[next(iter(runs))]
        counts.add(requests, tokens, cost)
        self.state.minutes.setdefault(reservation.minute, Counts()).add(requests, tokens, cost)

    def _last_hour(self, now: float) -> Counts:
        """What the last hour used. Minutes in the future, after the clock was set back, count as this one."""
        minute = int(now // 60)
        minutes: dict[int, Counts] = {}
        total = Counts()
        for at, counts in self.state.minutes.items():
            if at > minute - HOUR:
                minutes.setdefault(min(at, minute), Counts()).add(counts.requests, counts.tokens, counts.cost)
                total.add(counts.requests, counts.tokens, counts.cost)
        self.state.minutes = minutes
        return total

    def _over(self, used: Counts, requests: int | None, tokens: int | None, cost: float | None) -> str | None:
        largest = self.state.largest
        if requests is not None and used.requests >= requests:
            return f"{used.requests} of {requests} requests"
        if tokens is not None and (used.tokens >= tokens or used.tokens + largest.tokens > tokens):
            return f"{used.tokens} of {tokens} tokens"
        if cost is not None and (used.cost >= cost or used.cost + largest.cost > cost * (1 + 1e-9)):
            return f"a cost of {used.cost:.4g} of {cost:g}"
        return None
