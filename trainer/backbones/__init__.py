"""Frozen models that take soft prompts, a file for each family."""

import torch

from shared.settings import Settings
from trainer.backbones.dual_encoder import DualEncoder


def load_backbone(settings: Settings, labels: list[str]) -> DualEncoder:
    """Load the model a recipe names, with `labels` as the words for its classes.

    Raises:
        UserError: there is no such model.
    """
    return DualEncoder(settings.backbone, labels, choose_device(settings.device))


def choose_device(name: str) -> torch.device:
    """`auto` is the best that this machine has."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
