"""The first digest of a run from noise. It needs neither model nor torch, so that it can be leased while they load."""

from bus.messages import Digest
from shared.settings import PromptSettings, RestartSettings
from shared.subsampling import subsample

MAX_TASK = 2_000
"""Characters of the task's description."""

DIGEST_LABELS = 1_000
DIGEST_LABEL_BYTES = 16_384
"""Most class names in a digest, and most bytes of all together."""


def opening_digest(
    run: str, task: str, labels: list[str], budget: int, prompt: PromptSettings, restarts: RestartSettings
) -> Digest:
    """The first digest of a run from noise: the task and what is asked for. It needs no model."""
    return Digest(
        run=run,
        sequence=1,
        step=0,
        budget=budget,
        task=task[:MAX_TASK],
        labels=digest_labels(labels),
        num_tokens=prompt.num_tokens,
        num_candidates=restarts.candidates,
        trajectory=[],
        substitutions=[],
        slope=None,
        best=[],
        outcomes=[],
    )


def digest_labels(labels: list[str]) -> list[str]:
    """The class names that a digest carries: all, or evenly spaced ones if a message does not take all."""
    kept = subsample(labels, DIGEST_LABELS)
    while len(kept) > 2 and sum(len(label.encode()) for label in kept) > DIGEST_LABEL_BYTES:
        kept = subsample(kept, max(2, len(kept) * 3 // 4))
    return kept
