"""Counts the events of a run for Prometheus."""

from shared.metrics import TrainerMetrics
from trainer.search.events import (
    CandidatesPassedOver,
    DigestLeased,
    Evaluated,
    Event,
    ProposalReceived,
    Stepped,
    TrialJudged,
)


class MetricsListener:
    """Passes events on to `metrics`."""

    def __init__(self, metrics: TrainerMetrics) -> None:
        self._metrics = metrics

    def __call__(self, event: Event) -> None:
        """Count `event`."""
        metrics = self._metrics
        match event:
            case Stepped():
                metrics.step(len(event.lanes), event.step_seconds, event.bus_seconds)
                metrics.train_loss.set(event.train_losses[0])
                if counts := event.counts:
                    metrics.bus(counts.peers, counts.live, counts.ended, counts.rejected)
            case Evaluated():
                metrics.dev_loss.set(event.point.dev_loss)
            case DigestLeased():
                metrics.digests.inc(len(event.leases))
            case ProposalReceived():
                metrics.staleness.observe(event.lane_steps - event.answer.digest.step)
            case TrialJudged():
                metrics.candidates.inc(event.fate.fate)
                if event.fate.gain is not None:
                    metrics.trial_gain.observe(event.fate.gain)
            case CandidatesPassedOver():
                for fate in event.fates:
                    metrics.candidates.inc(fate.fate)
