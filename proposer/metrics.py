"""The proposer's metrics. docs/metrics.md explains each one."""

from typing import Literal, get_args

from prometheus_client import Counter, Gauge, Histogram

from shared.metrics import CounterBy, make_registry

RequestOutcome = Literal["ok", "empty", "cut", "failed", "timeout"]
State = Literal["preparing", "waiting", "asking", "backoff", "budget"]

REQUEST_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


class ProposerMetrics:
    """The metrics of one proposer."""

    def __init__(self, *, recipe: str, model: str) -> None:
        self.registry = registry = make_registry("tandem_proposer", recipe=recipe, model=model)
        self._requests = CounterBy(
            "tandem_proposer_llm_requests_total", "Requests to the LLM", "outcome", get_args(RequestOutcome), registry
        )
        seconds = Histogram(
            "tandem_proposer_llm_request_seconds",
            "One request to the LLM",
            ["outcome"],
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        self._seconds = {outcome: seconds.labels(outcome) for outcome in (*get_args(RequestOutcome), "other")}
        self._tokens = CounterBy(
            "tandem_proposer_tokens_total",
            "Tokens sent to and received from the LLM",
            "direction",
            ("in", "out"),
            registry,
        )
        self.cost = Counter(
            "tandem_proposer_cost_total", "Price of the tokens, in the currency of the prices", registry=registry
        )
        self.candidates = Counter("tandem_proposer_candidates_total", "Candidates sent to trainers", registry=registry)
        self.parse_failures = Counter(
            "tandem_proposer_parse_failures_total", "Answers without any candidate", registry=registry
        )
        self.idle_seconds = Counter("tandem_proposer_idle_seconds_total", "Time without a lease", registry=registry)
        self.busy_seconds = Counter(
            "tandem_proposer_busy_seconds_total", "Time with at least one lease", registry=registry
        )
        self.busy_share = Gauge(
            "tandem_proposer_busy_share", "Requests under way, of proposer.max_concurrency", registry=registry
        )
        self.budget_left = Gauge(
            "tandem_proposer_budget_left", "Share left of the tightest limit of proposer.budget", registry=registry
        )
        self.budget_left.set(1)
        self.connected_trainers = Gauge("tandem_proposer_connected_trainers", "Connected trainers", registry=registry)
        self.state_changes = CounterBy(
            "tandem_proposer_state_changes_total", "States entered", "state", get_args(State), registry
        )
        self.backoff_seconds = Gauge(
            "tandem_proposer_backoff_seconds", "Current pause before the next request to the LLM", registry=registry
        )

    def request(
        self, outcome: str, seconds: float, tokens_in: int | None = None, tokens_out: int | None = None
    ) -> None:
        """Observe one request to the LLM; tokens are None where the model does not count them."""
        self._requests.inc(outcome)
        self._seconds.get(outcome, self._seconds["other"]).observe(seconds)
        self._tokens.inc("in", tokens_in or 0)
        self._tokens.inc("out", tokens_out or 0)
