"""Proposals: a candidate from its arrival to what becomes of it. docs/architecture.md draws the states.

Proposals ask the channel for prompts in words, measure what arrives, open challenger lanes and judge their trials. Long
passes come before the changes that they serve, so that a signal can break them off and a resumed run does them again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from math import inf

from torch import Tensor

from bus.channel import Answer, Channel
from bus.messages import CandidateOutcome
from shared.settings import Settings
from trainer import ranks
from trainer.descent import Descent
from trainer.evaluator import Evaluator
from trainer.runs.signals import StopSignals
from trainer.search.digest import DigestWriter
from trainer.search.evaluation import EvalResult
from trainer.search.events import (
    CandidatesPassedOver,
    CandidatesScored,
    DigestLeased,
    LeaseLost,
    Listener,
    ProposalReceived,
    RequestSkipped,
    TrialJudged,
    TrialOpened,
)
from trainer.search.lanes import Lane, Origin, open_lane
from trainer.search.prompt_init import PromptInit
from trainer.search.restarts import Candidate, Incumbent, max_answers
from trainer.search.state import RunState

WAIT_SECONDS = 0.1
"""A wait in sync mode looks for a stop this often."""


@dataclass
class Proposals:
    """Turns what proposers say into restarts."""

    settings: Settings
    state: RunState
    channel: Channel
    prompt_init: PromptInit
    digests: DigestWriter
    descent: Descent
    evaluator: Evaluator
    observers: Listener
    signals: StopSignals
    scoring_cost: float
    """Lane-steps that scoring one candidate costs."""
    beat: Callable[[], None]
    """Called while a round of sync mode waits."""

    def __post_init__(self) -> None:
        self._news = self.channel.news
        self._rests_until = 0.0
        """Lane-steps before which `exchange` only reacts to news."""

    def exchange(self) -> None:
        """Merge what arrived, and lease a digest if a proposal is due and a proposer is free.

        In most iterations there is nothing to do, which two comparisons show: a gradient step leaves the processor's
        caches cold, so that every call takes microseconds.
        """
        if self._news or self.state.lane_steps >= self._rests_until:
            if self.state.exchanged == self.state.lane_steps:
                return  # a stop broke off the step after it
            self._exchange()
            self._rests_until = self._next_work()

    def _next_work(self) -> float:
        """Lane-steps at which there is something to do even without news.

        Waiting candidates are looked at again when a trial ends, and after each evaluation, whose checkpoint collects.
        """
        restarts, lane_steps = self.state.restarts, self.state.lane_steps
        if restarts.next_request is None or restarts.next_request <= lane_steps or restarts.wants(lane_steps):
            return inf  # a proposer that becomes free is news
        return restarts.next_request

    def _exchange(self) -> None:
        is_sync = self.settings.restarts.mode == "sync"
        self._merge()  # before asking: these may take what is left of the budget
        if (is_sync or self.channel.can_lease()) and self._wants():
            if is_sync:
                if not self._hold_round():
                    return
            else:
                self._ask()
                if self._is_noise:
                    self._merge()  # the answer to a digest that was leased while the model was loaded
        self.state.exchanged = self.state.lane_steps

    def _merge(self) -> None:
        """Take over what has arrived, measure the new candidates and start the good ones."""
        self.collect()
        if self.state.restarts.unscored:
            self._score()
        if self.state.restarts.waiting:
            self._start_candidates()

    def _wants(self) -> bool:
        return self.state.restarts.wants(self.state.lane_steps, self._is_noise)

    def collect(self) -> None:
        """Take over what has arrived, without measuring it: a checkpoint that is saved then lacks nothing."""
        self._rests_until = 0.0
        for event in self.channel.poll():
            if isinstance(event, Answer):
                self._receive(event)
            else:
                self.state.restarts.lease_ended(event.lease)
                self.observers(LeaseLost(event.lease, event.how, self.state.lane_steps))

    def digest_waits(self) -> bool:
        """Whether proposals are due and no proposer is free."""
        return self._wants() and not self.channel.can_lease()

    def judge_trials(self) -> None:
        """End the trials whose steps are over: the challenger becomes the incumbent or is dropped."""
        for lane in self.state.lanes[1:]:
            if self.state.restarts.due(lane.number, lane.age):
                self._judge(lane)
                self._rests_until = 0.0  # there is room for another

    def drop_diverged(self, lane: Lane) -> None:
        """End the trial of a challenger whose loss became NaN or infinite."""
        self._rests_until = 0.0
        self.state.lanes.remove(lane)
        lease = self.state.restarts.trials[lane.number].candidate.lease
        self.observers(TrialJudged(lane, lease, self.state.restarts.diverged(lane.number), self.state.lane_steps))

    def finish(self) -> None:
        """The budget is used up: end every candidate."""
        self._pass_over(self.state.restarts.finish())

    def _ask(self) -> None:
        """Lease a digest of now to the proposers that are free, as far as their answers are of use."""
        if not self.channel.can_lease():
            return
        state = self.state
        prompt, is_start = state.lanes[0].prompt, not state.iterations
        if is_start and not self._comes_from_words:
            digest = self.digests.opening(state.trajectory)
        else:
            if is_start:
                self.descent.probe_gradient()
            digest = self.digests.write(state.trajectory, state.lane_steps, prompt.detach(), prompt.grad)
        leases = [lease.id for lease in self.channel.lease(digest, max_answers(self.settings.restarts))]
        if leases:
            state.restarts.asked(state.lane_steps, leases)
            self.observers(DigestLeased(digest, leases))

    def _hold_round(self) -> bool:
        """Ask and wait for the answer, as the paper alternates; go on without one after `sync_wait_seconds`.

        Returns:
            False if a stop broke the round off.
        """
        restarts, lane_steps = self.state.restarts, self.state.lane_steps
        deadline = time.monotonic() + self.settings.restarts.sync_wait_seconds
        received = restarts.tally.received
        stopping = ranks.broadcast(self.signals.stopping)
        while restarts.tally.received == received and not stopping:
            if self._wants():
                self._ask()
            more = self.channel.wait(WAIT_SECONDS)
            self.beat()
            self.collect()
            stopping, late = ranks.broadcast((self.signals.stopping, time.monotonic() >= deadline))
            if late or not more:
                break
        if restarts.unscored:
            self._score()
        if restarts.tally.received == received:
            if stopping:
                return False
            restarts.skip_request(lane_steps)
            self.observers(RequestSkipped(lane_steps, self.settings.restarts.sync_wait_seconds))
        self._start_candidates()
        return True

    def _receive(self, answer: Answer) -> None:
        """Take a proposal; its new candidates are to be measured."""
        restarts, proposal, asked = self.state.restarts, answer.proposal, answer.digest.step
        restarts.settled(proposal.lease)
        trim = str if self._proposes_noise else self.prompt_init.trim
        outcomes = restarts.receive(
            proposal.candidates, proposal.lease, asked, self.state.lane_steps, trim, self._is_noise
        )
        self.observers(ProposalReceived(answer, self.state.lane_steps, len(proposal.candidates) - len(outcomes)))
        if outcomes:
            self.observers(CandidatesPassedOver(proposal.lease, outcomes, self.state.lane_steps))

    def _score(self) -> None:
        """Measure the new candidates together and queue the good ones."""
        state, fresh, began = self.state, self.state.restarts.unscored, time.monotonic()
        results = self.evaluator.score([self._start(candidate) for candidate in fresh])
        self._charge(len(results) + 1)
        out = state.restarts.scored([result.loss for result in results])
        for candidate, result in zip(fresh, results, strict=True):
            if candidate.score is not None:
                state.trajectory.measure(candidate.words, result)
        held = state.restarts.held(self._incumbent)
        self.observers(CandidatesScored(fresh, state.lane_steps, time.monotonic() - began, held))
        self._pass_over(out)

    def _charge(self, scored: int) -> None:
        """Count what scoring `scored` prompts cost; the budget takes whole lane-steps."""
        state, before = self.state, int(self.state.scoring_lane_steps)
        state.scoring_lane_steps += scored * self.scoring_cost
        if self.settings.restarts.charge_scoring:
            charged = int(state.scoring_lane_steps) - before
            state.lane_steps = min(self.settings.steps, state.lane_steps + charged)

    def _start_candidates(self) -> None:
        state = self.state
        while candidate := state.restarts.start(state.lane_steps, self._incumbent):
            lane = self._new_lane(candidate)
            if state.restarts.replaces(candidate, self._incumbent):
                (dev,) = self.evaluator.measure([lane])
                self._replace_incumbent(lane, candidate, dev)
            else:
                state.lanes.append(lane)
                state.opened += 1
                state.restarts.opened(lane.number, candidate)
                self.observers(TrialOpened(lane, candidate, state.dev, state.lane_steps))

    def _replace_incumbent(self, lane: Lane, candidate: Candidate, dev: EvalResult) -> None:
        """Adopt the new `lane` of `candidate` without a trial; `dev` was measured on it."""
        state = self.state
        outcome = state.restarts.replaced(candidate, state.dev.loss)
        state.opened += 1
        self._adopt(lane)
        self.evaluator.keep([lane], [dev])
        self.observers(TrialJudged(lane, candidate.lease, outcome, state.lane_steps, dev.loss))

    def _new_lane(self, candidate: Candidate) -> Lane:
        """A lane that starts from `candidate`, with the incumbent's head; not yet one of the run's."""
        incumbent = self.state.lanes[0]
        lineage = (*incumbent.lineage, Origin("proposal", candidate.words, self.state.lane_steps))
        return open_lane(self.state.opened, self._start(candidate), incumbent.head, lineage, self.settings)

    def _judge(self, challenger: Lane) -> None:
        state, lease = self.state, self.state.restarts.trials[challenger.number].candidate.lease
        incumbent, contender = self.evaluator.evaluate([state.lanes[0], challenger])
        outcome = state.restarts.judge(challenger.number, incumbent.loss, contender.loss)
        state.lanes.remove(challenger)
        if outcome.outcome == "adopted":
            state.dev = contender
            self._adopt(challenger)
        self.observers(TrialJudged(challenger, lease, outcome, state.lane_steps, contender.loss))

    def _adopt(self, lane: Lane) -> None:
        self.state.lanes[0] = lane
        self.state.trajectory.restarted()

    def _pass_over(self, ended: list[tuple[Candidate, CandidateOutcome]]) -> None:
        for lease, group in groupby(ended, key=lambda pair: pair[0].lease):
            self.observers(CandidatesPassedOver(lease, [outcome for _, outcome in group], self.state.lane_steps))

    def _start(self, candidate: Candidate) -> Tensor:
        """The prompt that a candidate starts from."""
        if self._proposes_noise:
            return self.prompt_init.noise(self.settings.seed * 1_000_003 + candidate.number)
        return self.prompt_init.embed(candidate.words)

    @property
    def _proposes_noise(self) -> bool:
        return self.settings.restarts.source == "random"

    @property
    def _comes_from_words(self) -> bool:
        return any(origin.words for origin in self.state.lanes[0].lineage)

    @property
    def _from_noise(self) -> bool:
        return not (self._comes_from_words or self.state.lanes[0].head)

    @property
    def _is_noise(self) -> bool:
        return not self.state.iterations and self._from_noise

    @property
    def _incumbent(self) -> Incumbent:
        state = self.state
        return Incumbent(
            loss=state.dev.loss,
            plateau=state.trajectory.is_plateau(self.settings.restarts.patience),
            from_noise=self._from_noise,
            is_noise=self._is_noise,
        )
