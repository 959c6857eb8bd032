"""Reports a run: events to its history, lines to people."""

import json
import logging
import time
from dataclasses import asdict
from typing import Any

from bus.messages import CandidateOutcome, Usage
from shared.append_log import AppendLog
from shared.settings import BudgetSettings
from trainer.search.events import (
    CandidatesPassedOver,
    CandidatesScored,
    DigestLeased,
    Evaluated,
    Event,
    LeaseLost,
    ProposalReceived,
    RequestSkipped,
    Stepped,
    TrialJudged,
    TrialOpened,
)
from trainer.search.restarts import Candidate

log = logging.getLogger(__name__)


class History:
    """Writes the events of docs/history.md, one JSON line each."""

    def __init__(self, log: AppendLog, prices: BudgetSettings) -> None:
        self._log = log
        self._prices = prices

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one event; `step` is in lane-steps."""
        event = {"kind": kind, "time": round(time.time(), 6), "step": step, **values}
        self._log.append(json.dumps(event, ensure_ascii=False))

    def __call__(self, event: Event) -> None:
        """Append `event`."""
        match event:
            case Stepped():
                self.write(
                    "step",
                    event.lane_steps,
                    lanes=[lane.number for lane in event.lanes],
                    train_losses=event.train_losses,
                    bus_seconds=round(event.bus_seconds, 7),
                )
            case Evaluated():
                values = event.point.model_dump()
                step = values.pop("step")
                pairs = zip(event.lanes, event.results, strict=True)
                lanes = [{"lane": lane.number, "age": lane.age, **asdict(result)} for lane, result in pairs]
                self.write("evaluation", step, **values, seconds=round(event.seconds, 3), lanes=lanes)
                self._log.flush()
            case DigestLeased(digest=digest):
                self.write(
                    "digest",
                    digest.step,
                    sequence=digest.sequence,
                    leases=event.leases,
                    num_candidates=digest.num_candidates,
                    substitutions=[push.model_dump() for push in digest.substitutions],
                    slope=digest.slope and digest.slope.model_dump(),
                )
            case ProposalReceived(answer=answer):
                proposal = answer.proposal
                self.write(
                    "proposal",
                    event.lane_steps,
                    asked=answer.digest.step,
                    lease=proposal.lease,
                    model=proposal.model,
                    candidates=len(proposal.candidates),
                    new=event.new,
                    **proposal.usage.model_dump(),
                    cost=self._cost(proposal.usage),
                )
            case LeaseLost():
                self.write("lease_ended", event.lane_steps, lease=event.lease, how=event.how)
            case RequestSkipped():
                self.write("request_skipped", event.lane_steps, waited_seconds=event.seconds)
            case CandidatesScored():
                scored = [asdict(candidate) for candidate in event.candidates]
                self.write("candidates", event.lane_steps, seconds=round(event.seconds, 4), scored=scored)
            case TrialOpened(candidate=candidate):
                self.write(
                    "trial",
                    event.lane_steps,
                    lane=event.lane.number,
                    lease=candidate.lease,
                    words=candidate.words,
                    score=candidate.score,
                )
            case TrialJudged(lane=lane):
                values = {"lane": lane.number, "lease": event.lease, "dev_loss": event.dev_loss}
                self.write("outcome", event.lane_steps, **values, **event.outcome.model_dump())
            case CandidatesPassedOver():
                for outcome in event.outcomes:
                    self.write("outcome", event.lane_steps, lease=event.lease, **outcome.model_dump())

    def _cost(self, usage: Usage) -> float | None:
        """None without prices, or where the proposer counts no tokens."""
        tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
        has_prices = self._prices.price_in or self._prices.price_out
        if not has_prices or tokens_in is None or tokens_out is None:
            return None
        return self._prices.price(tokens_in, tokens_out)


class Console:
    """Log lines, and in a notebook a progress bar."""

    def __init__(self, budget: int, bar: Any) -> None:
        """Report a run of `budget` lane-steps, to a `bar` as of tqdm too."""
        self._budget = budget
        self._bar = bar

    def __call__(self, event: Event) -> None:
        """Report `event`."""
        match event:
            case Stepped():
                self._bar.update(event.lane_steps - self._bar.n)
            case Evaluated():
                self._evaluated(event)
            case DigestLeased(digest=digest):
                log.info("step %d  asked for %d prompts", digest.step, digest.num_candidates)
            case LeaseLost(how=how):
                log.info("step %d  a proposer did not answer (%s)", event.lane_steps, how)
            case RequestSkipped():
                log.warning("no proposal within %g s; continuing without (is a proposer running?)", event.seconds)
            case ProposalReceived(answer=answer):
                log.info(
                    "step %d  %s answered the request of step %d: %d prompts, %d new",
                    event.lane_steps,
                    answer.proposal.model,
                    answer.digest.step,
                    len(answer.proposal.candidates),
                    event.new,
                )
            case CandidatesScored():
                self._scored(event)
            case TrialOpened(lane=lane, candidate=candidate):
                log.info(
                    "step %d  lane %d starts from %r (dev %.3f, incumbent %.3f)",
                    event.lane_steps,
                    lane.number,
                    candidate.words,
                    candidate.score,
                    event.incumbent.loss,
                )
            case TrialJudged(lane=lane, outcome=outcome):
                log.info("step %d  lane %d %s: %r", event.lane_steps, lane.number, _verdict(outcome), outcome.words)
            case CandidatesPassedOver():
                for reason in dict.fromkeys(outcome.outcome for outcome in event.outcomes):
                    words = ", ".join(repr(outcome.words) for outcome in event.outcomes if outcome.outcome == reason)
                    log.info("step %d  %s: %s", event.lane_steps, reason, words)

    def _evaluated(self, event: Evaluated) -> None:
        point = event.point
        log.info(
            "step %d/%d  %s  %sdev %.3f, %.1f%%%s  %r",
            point.step,
            self._budget,
            "1 lane" if len(event.lanes) == 1 else f"{len(event.lanes)} lanes",
            "" if point.train_loss is None else f"train {point.train_loss:.3f}  ",
            point.dev_loss,
            100 * point.dev_accuracy,
            self._pace(point.step, event.seconds),
            point.words,
        )

    def _pace(self, step: int, seconds: float) -> str:
        if not step or not seconds:
            return ""
        left = (self._budget - step) * seconds / step
        return f"  {step / seconds:.0f} lane-steps/s, {left:.0f} s left"

    def _scored(self, event: CandidatesScored) -> None:
        scored = [candidate for candidate in event.candidates if candidate.score is not None]
        for candidate in sorted(scored, key=_score):
            log.info("         dev %.3f  %r", candidate.score, candidate.words)
        if event.held:
            log.info("step %d  %d wait until the incumbent stops improving", event.lane_steps, event.held)


def _score(candidate: Candidate) -> float:
    return candidate.score or 0.0


def _verdict(outcome: CandidateOutcome) -> str:
    if outcome.gain is None:
        return f"{outcome.outcome}, its loss became NaN or infinite"
    return f"{outcome.outcome}, dev loss {abs(outcome.gain):.3f} {'lower' if outcome.gain > 0 else 'higher'}"
