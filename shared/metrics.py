"""What each process counts for Prometheus. docs/metrics.md says what every metric means.

Each object has a registry of its own. Label values come from a known set; anything else counts as
"other", so that a peer or an LLM cannot make new series. Children are looked up once, here, because
the training loop observes every step.
"""

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

FATES = ("adopted", "dropped", "outscored", "duplicate", "empty", "stale", "unfinished")
LEASE_OUTCOMES = ("settled", "released", "expired", "gone")
REJECT_REASONS = ("version", "malformed", "lease", "key")
REQUEST_OUTCOMES = ("ok", "empty", "failed", "timeout")
PROPOSER_STATES = ("waiting", "asking", "backoff")

STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
BUS_SECONDS = (1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 1e-3, 1e-2, 1e-1)
STALENESS_STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
TRIAL_GAIN = (-1, -0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3, 1)
REQUEST_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a switch of the whole library, not of a registry


class CounterBy:
    """A counter with one label of known values."""

    def __init__(self, name: str, help_: str, label: str, values: Sequence[str], registry: CollectorRegistry) -> None:
        counter = Counter(name, help_, [label], registry=registry)
        self._other = counter.labels("other")
        self._children = {value: counter.labels(value) for value in values}
        self._totals: dict[str, int] = {}

    def inc(self, value: str, amount: float = 1) -> None:
        """Count `amount` more of `value`."""
        self._children.get(value, self._other).inc(amount)

    def follow(self, totals: Mapping[str, int]) -> None:
        """Count what was added since the last call to totals kept elsewhere. A total that fell counts nothing."""
        if totals == self._totals:
            return
        for value, total in totals.items():
            self.inc(value, max(0, total - self._totals.get(value, 0)))
        self._totals = dict(totals)


class TrainerMetrics:
    """The metrics of one trainer."""

    def __init__(self, *, recipe: str, run: str) -> None:
        self.registry = registry = _registry("tandem_trainer", recipe=recipe, run=run)
        self._steps = Counter("tandem_trainer_steps_total", "Turns of the training loop", registry=registry)
        self._lane_steps = Counter(
            "tandem_trainer_lane_steps_total", "Gradient steps, one for each lane", registry=registry
        )
        self._step_seconds = Histogram(
            "tandem_trainer_step_seconds",
            "One turn of the loop without its bus work",
            buckets=STEP_SECONDS,
            registry=registry,
        )
        self._bus_seconds = Histogram(
            "tandem_trainer_bus_seconds",
            "Bus and restart bookkeeping in one turn of the loop",
            buckets=BUS_SECONDS,
            registry=registry,
        )
        self._lanes = Gauge("tandem_trainer_lanes", "Lanes in training, the incumbent included", registry=registry)
        loss = Gauge("tandem_trainer_loss", "The incumbent's loss when last measured", ["split"], registry=registry)
        self.train_loss, self.dev_loss = loss.labels("train"), loss.labels("dev")
        for gauge in (self.train_loss, self.dev_loss):
            gauge.set(math.nan)  # 0 would look like a perfect fit before anything is measured
        self.digests = Counter("tandem_trainer_digests_total", "Digests leased to proposers", registry=registry)
        self.candidates = CounterBy(
            "tandem_trainer_candidates_total", "Candidates by what became of them", "fate", FATES, registry
        )
        self.staleness = Histogram(
            "tandem_trainer_staleness_steps",
            "Lane-steps between a digest and the arrival of its answer",
            buckets=STALENESS_STEPS,
            registry=registry,
        )
        self.trial_gain = Histogram(
            "tandem_trainer_trial_gain",
            "Development loss of the incumbent minus that of the judged challenger",
            buckets=TRIAL_GAIN,
            registry=registry,
        )
        self._peers = Gauge("tandem_trainer_peers", "Proposers that are there", registry=registry)
        self._live = Gauge("tandem_trainer_leases_live", "Leases not yet ended", registry=registry)
        self._leases = CounterBy(
            "tandem_trainer_leases_total", "Leases by how they ended", "outcome", LEASE_OUTCOMES, registry
        )
        self._rejected = CounterBy(
            "tandem_trainer_rejected_frames_total", "Messages that were refused", "reason", REJECT_REASONS, registry
        )

    def step(self, lanes: int, step_seconds: float, bus_seconds: float) -> None:
        """Observe one turn of the loop."""
        self._steps.inc()
        self._lane_steps.inc(lanes)
        self._lanes.set(lanes)
        self._step_seconds.observe(step_seconds)
        self._bus_seconds.observe(bus_seconds)

    def bus(self, peers: int, live: int, ended: Mapping[str, int], rejected: Mapping[str, int]) -> None:
        """Take over how the bus stands: who is there, live leases, and its totals since it was opened."""
        self._peers.set(peers)
        self._live.set(live)
        self._leases.follow(ended)
        self._rejected.follow(rejected)


class ProposerMetrics:
    """The metrics of one proposer."""

    def __init__(self, *, recipe: str, model: str) -> None:
        self.registry = registry = _registry("tandem_proposer", recipe=recipe, model=model)
        self._requests = CounterBy(
            "tandem_proposer_llm_requests_total", "Requests to the LLM", "outcome", REQUEST_OUTCOMES, registry
        )
        seconds = Histogram(
            "tandem_proposer_llm_request_seconds",
            "One request to the LLM",
            ["outcome"],
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        self._seconds = {outcome: seconds.labels(outcome) for outcome in (*REQUEST_OUTCOMES, "other")}
        self._tokens = CounterBy(
            "tandem_proposer_tokens_total", "Tokens sent to and got from the LLM", "direction", ("in", "out"), registry
        )
        self.candidates = Counter("tandem_proposer_candidates_total", "Candidates sent to trainers", registry=registry)
        self.parse_failures = Counter(
            "tandem_proposer_parse_failures_total", "Answers without a single candidate", registry=registry
        )
        self.idle_seconds = Counter("tandem_proposer_idle_seconds_total", "Time without a lease", registry=registry)
        self.busy_seconds = Counter(
            "tandem_proposer_busy_seconds_total", "Time with at least one lease in hand", registry=registry
        )
        self.connected_trainers = Gauge("tandem_proposer_connected_trainers", "Trainers that answer", registry=registry)
        self.state_changes = CounterBy(
            "tandem_proposer_state_changes_total", "States entered", "state", PROPOSER_STATES, registry
        )
        self.backoff_seconds = Gauge(
            "tandem_proposer_backoff_seconds", "The pause now kept before the LLM is asked again", registry=registry
        )

    def request(
        self, outcome: str, seconds: float, tokens_in: int | None = None, tokens_out: int | None = None
    ) -> None:
        """Observe one request to the LLM; tokens are None where the model does not count them."""
        self._requests.inc(outcome)
        self._seconds.get(outcome, self._seconds["other"]).observe(seconds)
        self._tokens.inc("in", tokens_in or 0)
        self._tokens.inc("out", tokens_out or 0)


def _registry(prefix: str, **labels: str) -> CollectorRegistry:
    """A registry that knows who is measured: `prefix`_info and the process's own memory, time and files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    try:
        release = version("tandem-tuning")
    except PackageNotFoundError:  # run from a checkout that was never installed
        release = "unknown"
    Info(prefix, "What is running", registry=registry).info({"version": release, **labels})
    return registry
