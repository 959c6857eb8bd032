"""The tuned prompt and head as an adapter that PEFT loads."""

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor

from shared.errors import first_line
from trainer.backbones.decoder import Decoder
from trainer.backbones.encoder import Encoder

FOLDER = "adapter"


def export_adapter(folder: Path, backbone: Encoder | Decoder, prompt: Tensor, head: Mapping[str, Tensor]) -> str | None:
    """Write `folder/adapter/`, so that `PeftModel.from_pretrained(base, folder/"adapter")` gives our logits.

    The adapter is optional: whatever goes wrong is a reason in words, never an error.

    Args:
        folder: where to.
        backbone: the model that was tuned; `base` is what its `peft_base` loads.
        prompt: [tokens, dim].
        head: the head's parameters by name; empty where the family has none.

    Returns:
        Why the adapter is missing, where PEFT cannot express it or fails; else None.
    """
    if isinstance(backbone, Encoder) and backbone.settings.pooling == "text":
        return "PEFT reads a prompt-tuned encoder at the prompt's first position, not as backbone.pooling = 'text' does"
    try:
        _write(folder / FOLDER, backbone, prompt, head)
    except Exception as error:  # PEFT and transformers raise any type for a model that they do not fit
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        return f"PEFT failed on this model with {type(error).__name__}: {first_line(error)}".rstrip(".")
    return None


def _write(folder: Path, backbone: Encoder | Decoder, prompt: Tensor, head: Mapping[str, Tensor]) -> None:
    base = backbone.peft_base()
    sizes = base.config.get_text_config()  # of a model of texts and images, its part for texts
    base.load_state_dict(dict(head), strict=False)  # the adapter's copy of the head starts from the base's
    config = PromptTuningConfig(
        task_type=backbone.peft_task,
        num_virtual_tokens=len(prompt),
        token_dim=prompt.shape[1],
        num_layers=sizes.num_hidden_layers,  # under these names every model has them, DistilBERT too
        num_attention_heads=sizes.num_attention_heads,
        modules_to_save=sorted({name.split(".")[0] for name in head}) or None,
    )
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # between PEFT and transformers
        model: Any = get_peft_model(base, config)
    with torch.no_grad():
        model.prompt_encoder[model.active_adapter].embedding.weight.copy_(prompt)
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's form, nothing in it filled in
