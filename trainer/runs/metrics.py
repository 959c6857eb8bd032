"""The trainer's metrics. docs/metrics.md explains each one."""

import math
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bus.leases import Ending
from bus.messages import CandidateOutcome, Reject
from shared.metrics import CounterBy, make_registry
from trainer.search.events import (
    CandidatesPassedOver,
    DigestLeased,
    Evaluated,
    Event,
    ProposalReceived,
    Stepped,
    TrialJudged,
    WritesFailed,
)

OUTCOMES = get_args(CandidateOutcome.model_fields["outcome"].annotation)
LEASE_OUTCOMES = get_args(Ending)
REJECT_REASONS = get_args(Reject.model_fields["reason"].annotation)
WRITTEN = ("history", "record", "checkpoint")

STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
BUS_SECONDS = (1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 1e-3, 1e-2, 1e-1)
STALENESS_STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
TRIAL_MARGIN = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)


class TrialMargin:
    """How far apart challenger and incumbent are at judgement, by which is better.

    Two histograms, because OpenMetrics refuses one with negative buckets that has a sum.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        margin = Histogram(
            "tandem_trainer_trial_margin",
            "Difference between the development losses of incumbent and judged challenger, by which is lower",
            ["winner"],
            buckets=TRIAL_MARGIN,
            registry=registry,
        )
        self._challenger, self._incumbent = margin.labels("challenger"), margin.labels("incumbent")

    def observe(self, gain: float) -> None:
        """Observe one judgement; `gain` is the incumbent's development loss minus the challenger's."""
        (self._challenger if gain > 0 else self._incumbent).observe(abs(gain))


class TrainerMetrics:
    """The metrics of one trainer; a listener of its run."""

    def __init__(self, *, recipe: str, run: str) -> None:
        self.registry = registry = make_registry("tandem_trainer", recipe=recipe, run=run)
        self._steps = Counter("tandem_trainer_steps_total", "Iterations of the training loop", registry=registry)
        self._lane_steps = Counter(
            "tandem_trainer_lane_steps_total", "Gradient steps, one for each lane", registry=registry
        )
        self._step_seconds = Histogram(
            "tandem_trainer_step_seconds",
            "One iteration of the loop without its bus work",
            buckets=STEP_SECONDS,
            registry=registry,
        )
        self._bus_seconds = Histogram(
            "tandem_trainer_bus_seconds",
            "Bus and restart bookkeeping in one iteration of the loop",
            buckets=BUS_SECONDS,
            registry=registry,
        )
        self._lanes = Gauge("tandem_trainer_lanes", "Lanes in training, the incumbent included", registry=registry)
        loss = Gauge("tandem_trainer_loss", "The incumbent's loss when last measured", ["split"], registry=registry)
        self.budget = Gauge("tandem_trainer_budget_lane_steps", "Lane-steps of the whole run", registry=registry)
        self.train_loss, self.dev_loss = loss.labels("train"), loss.labels("dev")
        for gauge in (self.train_loss, self.dev_loss):
            gauge.set(math.nan)  # before the first measurement, 0 would look like a perfect fit
        self.digests = Counter("tandem_trainer_digests_total", "Digests leased to proposers", registry=registry)
        self._digest_waits = Gauge(
            "tandem_trainer_digest_waiting", "1 while proposals are due and no proposer is free", registry=registry
        )
        self.candidates = CounterBy(
            "tandem_trainer_candidates_total", "Candidates by their outcome", "outcome", OUTCOMES, registry
        )
        self.staleness = Histogram(
            "tandem_trainer_staleness_steps",
            "Lane-steps between a digest and the arrival of its answer",
            buckets=STALENESS_STEPS,
            registry=registry,
        )
        self.trial_gain = TrialMargin(registry)
        self._write_errors = CounterBy(
            "tandem_trainer_write_errors_total", "Writes that the disk did not take", "file", WRITTEN, registry
        )
        self._peers = Gauge("tandem_trainer_peers", "Connected proposers", registry=registry)
        self._live = Gauge("tandem_trainer_leases_live", "Leases not yet ended", registry=registry)
        self._leases = CounterBy(
            "tandem_trainer_leases_total", "Leases by how they ended", "outcome", LEASE_OUTCOMES, registry
        )
        self._rejected = CounterBy(
            "tandem_trainer_rejected_frames_total", "Messages that were refused", "reason", REJECT_REASONS, registry
        )

    def __call__(self, event: Event) -> None:
        """Count an event of the run."""
        match event:
            case Stepped():
                self._step(event)
            case Evaluated():
                self.dev_loss.set(event.point.dev_loss)
            case DigestLeased():
                self.digests.inc(len(event.leases))
            case ProposalReceived():
                self.staleness.observe(event.lane_steps - event.answer.digest.step)
            case TrialJudged():
                self.candidates.inc(event.outcome.outcome)
                if event.outcome.gain is not None:
                    self.trial_gain.observe(event.outcome.gain)
            case CandidatesPassedOver():
                for outcome in event.outcomes:
                    self.candidates.inc(outcome.outcome)
            case WritesFailed():
                self._write_errors.follow(event.times)

    def _step(self, event: Stepped) -> None:
        self._steps.inc()
        self._lane_steps.inc(len(event.lanes))
        self._lanes.set(len(event.lanes))
        self._step_seconds.observe(event.step_seconds)
        self._bus_seconds.observe(event.bus_seconds)
        self.train_loss.set(event.train_losses[0])
        if counts := event.counts:
            self._peers.set(counts.peers)
            self._live.set(counts.live)
            self._digest_waits.set(event.digest_waits)
            self._leases.follow(counts.ended)
            self._rejected.follow(counts.rejected)
