"""`best/`: what a run found, ready to be loaded without the run."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from shared.settings import Settings
from trainer.folder import write_json
from trainer.pool import Result

TENSORS = "best/best.safetensors"
DESCRIPTION = "best/best.json"


def export_best(folder: Path, result: Result, labels: list[str], words: list[str], settings: Settings) -> None:
    """Write the class vectors [classes, dim] and the prompts [tokens, dim] they came from.

    Args:
        folder: the run's folder.
        result: what the run found.
        labels: the words that name the classes.
        words: what each member's prompt says, in the nearest words.
        settings: the run's settings.
    """
    (folder / "best").mkdir(exist_ok=True)
    tensors: dict[str, Tensor] = {"class_vectors": result.class_vectors.contiguous()}
    for index, member in enumerate(result.members):
        tensors[f"prompt.{index}"] = member.prompt.contiguous()
    save_file(tensors, folder / TENSORS)
    description: dict[str, Any] = {
        "labels": labels,
        "task": settings.task.describe,
        "result": result.kind,
        "prompt_words": words,
        "backbone": settings.backbone.model_dump(),
    }
    write_json(folder / DESCRIPTION, description)
