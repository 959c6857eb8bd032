"""Frozen models that take soft prompts, a file for each family."""

import torch

from shared.errors import UserError
from shared.settings import BackboneSettings, Format, PromptSettings, Settings
from trainer.backbones.backbone import Backbone
from trainer.backbones.decoder import Decoder
from trainer.backbones.dual_encoder import DualEncoder
from trainer.backbones.encoder import Encoder
from trainer.backbones.model_files import refusing
from trainer.tasks.examples import Task


def load_backbone(settings: Settings, task: Task) -> Backbone:
    """Load the model a recipe names, for the labels and examples of `task`.

    Raises:
        UserError: no such model, or it cannot do the task.
    """
    return load_family(settings.backbone, settings.prompt, task.labels, task.format, choose_device(settings.device))


def load_family(
    settings: BackboneSettings, prompt: PromptSettings, labels: list[str], format: Format, device: torch.device
) -> Backbone:
    """Load a model of any family.

    Raises:
        UserError: no such model, or it cannot do the task.
    """
    with refusing(settings, "cannot be loaded", "copy the model again or choose another"):
        match settings.family:
            case "dual_encoder":
                return DualEncoder(settings, prompt, labels, device)
            case "encoder":
                return Encoder(settings, prompt, labels, format, device)
            case "decoder":
                return Decoder(settings, prompt, labels, format, device)


def choose_device(name: str) -> torch.device:
    """The device that the setting `device` names; `auto` is the best of this machine.

    Raises:
        UserError: the machine does not have it.
    """
    if name != "auto":
        return _find_device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _find_device(name: str) -> torch.device:
    kind, _, number = name.partition(":")
    found = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in found or (number and not (kind == "cuda" and number.isdecimal())):
        raise UserError(f"device = {name!r} is not one of auto, cpu, cuda, cuda:0, cuda:1, ..., mps")
    if int(number or 0) >= found[kind]:
        names = ["cpu", *(f"cuda:{at}" for at in range(found["cuda"])), *["mps"] * found["mps"]]
        raise UserError(
            f"device = {name!r}: this machine does not have it, or torch cannot use it; choose auto or one of "
            f"{', '.join(names)}"
        )
    return torch.device(name)
