"""Gradient descent on soft prompts of a frozen model, restarted from what proposers suggest."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.result.classifier import Classifier


def load(run: str) -> "Classifier":
    """The classifier that a finished run found; `run` is its folder, its name in `runs`, or `latest`."""
    from trainer.result.classifier import Classifier  # torch and transformers load only where they are used

    return Classifier.load(run)
