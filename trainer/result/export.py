"""`best/`: what a run found, ready to be loaded without the run."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from shared.settings import Settings
from trainer.backbones.decoder import Decoder
from trainer.backbones.encoder import Encoder
from trainer.result.adapter import export_adapter
from trainer.result.readme import usage
from trainer.runs.directory import BEST, BEST_DESCRIPTION, BEST_README, BEST_TENSORS, write_json
from trainer.search.context import TuningContext
from trainer.search.pool import TuningResult


def export_best(
    folder: Path, result: TuningResult, context: TuningContext, words: list[str], settings: Settings
) -> str | None:
    """Write what was tuned, all that is needed to load it, a PEFT adapter where there can be one, and how to use it.

    Args:
        folder: the run's folder.
        result: what the run found.
        context: task and model.
        words: what each member's prompt says, in the nearest words.
        settings: the run's settings.

    Returns:
        Why the PEFT adapter is missing, for a family that usually has one; else None.
    """
    (folder / BEST).mkdir(exist_ok=True)
    tuned, task, backbone = result.tuned, context.task, context.backbone
    tensors: dict[str, Tensor] = {f"prompt.{index}": member.prompt for index, member in enumerate(result.members)}
    tensors |= {f"head.{name}": value for name, value in tuned.head.items()}
    if tuned.class_embeddings is not None:
        tensors["class_embeddings"] = tuned.class_embeddings
    labels = json.dumps(task.labels, ensure_ascii=False)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / BEST_TENSORS, {"labels": labels}
    )
    description: dict[str, Any] = {
        "labels": task.labels,
        "class": type(backbone).__name__,
        "model": backbone.vocabulary.fingerprint,
        "task": settings.task.model_dump(),
        "result": result.kind,
        "prompt_words": words,
        "backbone": settings.backbone.model_dump(),
        "prompt": settings.prompt.model_dump(),
    }
    write_json(folder / BEST_DESCRIPTION, description)
    reason = None
    if isinstance(backbone, Encoder | Decoder):  # last, so that the result is whole whatever happens here
        reason = export_adapter(folder / BEST, backbone, tuned.prompt, tuned.head)
    (folder / BEST_README).write_text(usage(settings, context, reason), encoding="utf-8")
    return reason
