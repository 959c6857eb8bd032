"""The training loop: gradient descent on every lane, restarts merged when they arrive.

One turn of the loop judges the challengers whose trial is over, measures the development split when that is due,
merges what came over the bus, and takes one gradient step of all lanes in a single stacked pass. It never waits, but
for the rounds of `sync` mode. Long passes come before the changes that they serve, so that a signal can break them
off and a resumed run does them again.
"""

import time
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import torch

from bus.channel import Answer, Channel
from bus.messages import CandidateOutcome, Digest, Outcomes
from shared.errors import UserError
from shared.health import Health
from shared.metrics import TrainerMetrics
from shared.settings import Settings
from trainer.backbones.backbone import Backbone
from trainer.runs.checkpoint import save_checkpoint
from trainer.runs.directory import RunDirectory
from trainer.runs.reporting import Reporter
from trainer.runs.signals import StopSignals
from trainer.search.batches import batch_indices
from trainer.search.evaluation import EncodedSplit, EvalResult, evaluate, losses
from trainer.search.lanes import Lane, Origin, Stack, backward, open_lane, optimizer_step, stack, stack_lanes
from trainer.search.pool import snapshot
from trainer.search.prompt_init import PromptInit
from trainer.search.restarts import Candidate, clean_words, outscored
from trainer.search.schedule import learning_rate, steps_per_epoch
from trainer.search.state import State

COUNTS_EVERY = 10
"""Turns between two readings of the bus's counters for the metrics."""

PROBE_ROWS = 128
"""Training rows that the look at the first gradient passes over, at most."""


@dataclass
class Loop:
    """Trains until the budget is spent or a signal comes."""

    settings: Settings
    state: State
    backbone: Backbone
    labels: list[str]
    train: EncodedSplit
    dev: EncodedSplit
    starts: PromptInit
    end: Channel | None
    """Where proposals come from; none for plain prompt tuning."""
    folder: RunDirectory
    reporter: Reporter
    metrics: TrainerMetrics
    health: Health
    signals: StopSignals

    def run(self) -> None:
        """Train until the budget is spent.

        Raises:
            Stopped: a signal came first; the state is whole.
        """
        state, budget = self.state, self.settings.steps
        while True:
            began = time.monotonic()
            for lane in [lane for lane in state.lanes[1:] if state.restarts.due(lane.number, lane.age)]:
                self._judge(lane)
            if self._evaluation_is_due():
                self._mark_point()
            if state.lane_steps >= budget:
                state.seconds += time.monotonic() - began
                break
            looked = time.monotonic()
            if self.end is not None:
                self._meet_proposers(self.end)
            met = time.monotonic()
            lanes = state.lanes[: budget - state.lane_steps]
            train_losses = self._step(lanes)
            self.reporter.step(state.lane_steps, lanes, train_losses, met - looked)
            seconds, bus_seconds = time.monotonic() - began, met - looked
            state.seconds += seconds
            state.stalled_seconds += bus_seconds
            self._beat(train_losses[0], len(lanes), seconds - bus_seconds, bus_seconds)
        self._finish()

    def _evaluation_is_due(self) -> bool:
        """Whether nothing was measured yet, or an evaluation lies between the last point and now."""
        per, budget, points = self.settings.num_evals, self.settings.steps, self.state.trajectory.points
        return not points or self.state.lane_steps * per // budget > points[-1].step * per // budget

    def _beat(self, train_loss: float, lanes: int, step_seconds: float, bus_seconds: float) -> None:
        self.health.beat()
        self.metrics.step(lanes, step_seconds, bus_seconds)
        self.metrics.train_loss.set(train_loss)
        if self.end is not None and self.state.iterations % COUNTS_EVERY == 0:
            counts = self.end.counts()
            self.metrics.bus(counts.peers, counts.live, counts.ended, counts.rejected)

    # Gradient descent

    def _step(self, lanes: list[Lane]) -> list[float]:
        """One gradient step of `lanes`, all on the same batch; their training losses."""
        state, settings, train = self.state, self.settings, self.train
        torch.manual_seed(settings.seed * 1_000_003 + state.iterations)  # dropout, so that a resumed run repeats it
        rows = batch_indices(
            state.iterations, settings.optimizer.batch_size, len(train.targets), settings.seed, train.lengths
        )
        with self.signals.interruptible():
            logits = self.backbone.logits(stack_lanes(lanes), train.inputs[rows], training=True)
            lane_losses = losses(logits, train.targets[rows])
            backward(lanes, lane_losses)
        optimizer_step(lanes, learning_rate(settings.optimizer, state.lane_steps, settings.steps, self._warmup))
        state.iterations += 1
        state.lane_steps += len(lanes)
        values: list[float] = lane_losses.tolist()
        self._check(values)
        state.trajectory.step(values[0])
        return values

    def _probe_gradient(self) -> None:
        """A pass without a step, so that a digest of the start says where its gradient points."""
        lanes, rows = self.state.lanes, batch_indices(0, PROBE_ROWS, len(self.train.targets), self.settings.seed)
        with self.signals.interruptible():
            logits = self.backbone.logits(stack_lanes(lanes), self.train.inputs[rows])
            backward(lanes, losses(logits, self.train.targets[rows]))

    @cached_property
    def _warmup(self) -> int:
        """Lane-steps."""
        return self.settings.optimizer.warmup_epochs * steps_per_epoch(self.settings, len(self.train.targets))

    # Fitness

    @torch.no_grad()
    def _measure(self, lanes: Stack) -> list[EvalResult]:
        """Fitness of stacked lanes on the development split, in one pass."""
        found = evaluate(self.backbone.logits(lanes, self.dev.inputs), self.dev.targets)
        self._check([one.loss for one in found])
        return found

    def _check(self, values: list[float]) -> None:
        if not all(map(isfinite, values)):
            raise UserError(
                f"the loss is no number any more after {self.state.lane_steps} lane-steps; "
                f"optimizer.lr = {self.settings.optimizer.lr:g} is too high"
            )

    def _evaluate(self, lanes: list[Lane]) -> list[EvalResult]:
        """Measure `lanes` and remember them as they are now; once more does no harm."""
        state = self.state
        found = self._measure(stack_lanes(lanes))
        for lane, dev in zip(lanes, found, strict=True):
            state.pool.add(snapshot(lane, state.lane_steps, dev))
        state.dev = found[0]
        return found

    def _mark_point(self) -> None:
        """Measure all lanes, add a point to the trajectory and save a checkpoint."""
        state = self.state
        with self.signals.interruptible():
            found = self._evaluate(state.lanes)
        if not state.trajectory.points and (words := state.lanes[0].lineage[0].words):
            state.trajectory.measure(words, state.dev)  # the first prompt in words
        point = state.trajectory.evaluated(
            state.lane_steps, state.lanes[0].prompt, found[0], self.backbone.vocabulary, self.settings
        )
        self.reporter.point(point, state.lanes, found, state.seconds)
        self.metrics.dev_loss.set(point.dev_loss)
        save_checkpoint(self.folder.path, state, self.starts)

    # Proposers

    @cached_property
    def _waits(self) -> bool:
        return self.settings.restarts.mode == "sync"

    def _meet_proposers(self, end: Channel) -> None:
        """Merge what arrived, and lease a digest if a proposal is due and somebody is free.

        In most turns there is nothing to do, and every call costs microseconds: a gradient step leaves the
        processor's caches cold. So the tests that usually fail come first.
        """
        restarts = self.state.restarts
        for event in end.poll():
            if isinstance(event, Answer):
                self._receive(event)
            elif not self._waits:  # the request is open again
                restarts.ask_again(self.state.lane_steps)
        if restarts.unscored:
            self._score()
        if restarts.waiting:  # first, so that nobody is asked when these take what is left of the budget
            self._start_candidates()
        if (self._waits or end.can_lease()) and restarts.wants(self.state.lane_steps):
            if self._waits:
                self._hold_round(end)
            else:
                self._ask(end)

    def _ask(self, end: Channel) -> str:
        """Lease the digest of this moment to proposers that are free; the first lease, or "" if nobody is free."""
        state, restarts = self.state, self.settings.restarts
        if not end.can_lease():
            return ""
        if not state.iterations:
            self._probe_gradient()
        digest = self._digest()
        leases = end.lease(digest, 1 if self._waits else restarts.max_challengers)
        if not leases:
            return ""
        state.restarts.asked(state.lane_steps)
        self.reporter.asked(digest)
        self.metrics.digests.inc(len(leases))
        return leases[0].id

    def _digest(self) -> Digest:
        state, prompt = self.state, self.state.lanes[0].prompt
        return state.trajectory.digest(
            self.folder.name,
            state.lane_steps,
            prompt.detach(),
            prompt.grad,
            self.labels,
            self.backbone.vocabulary,
            self.settings,
        )

    def _hold_round(self, end: Channel) -> None:
        """Ask and wait for the answer, as the paper alternates; go on without one after `sync_wait_seconds`."""
        deadline = time.monotonic() + self.settings.restarts.sync_wait_seconds
        asked, answered = "", False
        while not answered and time.monotonic() < deadline and not self.signals.stopping:
            asked = asked or self._ask(end)
            if not end.wait(0.1) and (asked or not end.can_lease()):
                break
            self.health.beat()
            for event in end.poll():
                if isinstance(event, Answer):
                    self._receive(event)
                    answered = True
                elif event.lease == asked:
                    asked = ""
        if self.state.restarts.unscored:
            self._score()
        if not answered and self.signals.stopping:
            self.state.restarts.ask_again(self.state.lane_steps)
        elif not answered:
            self.state.restarts.skip_round(self.state.lane_steps)
            self.reporter.unanswered(self.settings.restarts.sync_wait_seconds)
        self._start_candidates()

    def _receive(self, answer: Answer) -> None:
        """Take a proposal; what is new in it is to be measured."""
        state, proposal = self.state, answer.proposal
        words = [self.starts.trim(clean_words(words)) for words in proposal.candidates]
        fates = state.restarts.receive(words, proposal.lease, answer.digest.step, state.lane_steps)
        self.metrics.staleness.observe(state.lane_steps - answer.digest.step)
        self.reporter.proposal(answer, state.lane_steps, len(words) - len(fates))
        self._pass_over(proposal.lease, fates)

    def _score(self) -> None:
        """Measure the new candidates together and queue the good ones."""
        state, fresh = self.state, self.state.restarts.unscored
        with self.signals.interruptible():
            prompts = [self.starts.embed(candidate.words) for candidate in fresh]
            found = self._measure(stack(prompts, [state.lanes[0].head] * len(fresh)))
        for candidate, dev in zip(fresh, found, strict=True):
            state.trajectory.measure(candidate.words, dev)
        dropped = state.restarts.scored([dev.loss for dev in found])
        self.reporter.scored(fresh, state.lane_steps)
        for lease in dict.fromkeys(candidate.lease for candidate in dropped):
            self._pass_over(lease, [outscored(candidate) for candidate in dropped if candidate.lease == lease])
        if state.restarts.holds(state.trajectory.since_lowest):
            self.reporter.held(len(state.restarts.waiting), state.lane_steps)

    def _start_candidates(self) -> None:
        state = self.state
        while candidate := state.restarts.start(state.lane_steps, state.dev.loss, state.trajectory.since_lowest):
            origin = Origin("proposal", candidate.words, state.lane_steps)
            lineage = (*state.lanes[0].lineage, origin)
            start = self.starts.embed(candidate.words)
            lane = open_lane(state.opened, start, state.lanes[0].head, lineage, self.settings)
            state.opened += 1
            if self.settings.restarts.policy == "trial":
                state.lanes.append(lane)
                state.restarts.opened(lane.number, candidate)
                self.reporter.opened(lane, candidate, state.dev, state.lane_steps)
            else:
                self._adopt(lane)
                self._conclude(candidate, state.restarts.replaced(candidate, state.dev.loss), lane)
                self._evaluate(state.lanes)

    def _judge(self, challenger: Lane) -> None:
        """End a trial: the challenger becomes the incumbent or is dropped."""
        state = self.state
        with self.signals.interruptible():
            incumbent, contender = self._evaluate([state.lanes[0], challenger])
        candidate = state.restarts.trials[challenger.number].candidate
        fate = state.restarts.judge(challenger.number, incumbent.loss, contender.loss)
        state.lanes.remove(challenger)
        if fate.outcome == "adopted":
            state.dev = contender
            self._adopt(challenger)
        self.metrics.trial_gain.observe(incumbent.loss - contender.loss)
        self._conclude(candidate, fate, challenger)

    def _adopt(self, lane: Lane) -> None:
        self.state.lanes[0] = lane
        self.state.trajectory.restarted()

    def _conclude(self, candidate: Candidate, fate: CandidateOutcome, lane: Lane) -> None:
        self.reporter.judged(lane, fate, self.state.lane_steps)
        self._tell(candidate.lease, [fate])

    def _pass_over(self, lease: str, fates: list[CandidateOutcome]) -> None:
        self.reporter.passed_over(fates, self.state.lane_steps)
        self._tell(lease, fates)

    def _tell(self, lease: str, fates: list[CandidateOutcome]) -> None:
        """Tell proposers, digests and metrics what became of candidates."""
        if not fates:
            return
        self.state.trajectory.outcomes += fates
        for fate in fates:
            self.metrics.candidates.inc(fate.outcome)
        if self.end is not None:
            self.end.tell(Outcomes(run=self.folder.name, lease=lease, step=self.state.lane_steps, outcomes=fates))

    def _finish(self) -> None:
        ended = self.state.restarts.finish()
        self.reporter.passed_over([fate for _, fate in ended], self.state.lane_steps)
        for candidate, fate in ended:
            self._tell(candidate.lease, [fate])
