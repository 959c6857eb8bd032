"""The common pieces of both processes' metrics. Each process has its own: `trainer.runs.metrics`, `proposer.metrics`.

Label values come from a fixed set; any other value counts as "other", so that a peer or an LLM cannot create
new series.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Info, ProcessCollector, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # a switch of the whole library, not of a registry


class CounterBy:
    """A counter with one label of known values. Children are looked up once: the training loop counts every step."""

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


def make_registry(prefix: str, **labels: str) -> CollectorRegistry:
    """A new registry with `prefix`_info, which carries `labels`, and the process's own memory, time and files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    try:
        release = version("tandem-tuning")
    except PackageNotFoundError:  # a checkout that was never installed
        release = "unknown"
    Info(prefix, "What is running", registry=registry).info({"version": release, **labels})
    return registry
