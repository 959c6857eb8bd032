"""How to use what a run found, in a few lines of other libraries."""

import json
from pathlib import Path
from string import Template

from shared.settings import Settings
from trainer.backbones.dual_encoder import DualEncoder
from trainer.backbones.open_clip_towers import model_name
from trainer.paths import find_model
from trainer.search.context import TuningContext

TEXTS = Path(__file__).parent / "readmes"


def usage(settings: Settings, context: TuningContext, without_adapter: str | None) -> str:
    """The README of a result; `without_adapter` says why it has no PEFT adapter, where it has none."""
    backbone, task = settings.backbone, context.task
    model = json.dumps(found := find_model(backbone))
    if found.endswith(".gguf"):  # from_pretrained takes a folder and the file in it
        model = f"{json.dumps(str(Path(found).parent))}, gguf_file={json.dumps(Path(found).name)}"
    match backbone.family:
        case "dual_encoder" if backbone.library == "open_clip":
            name, model = "open_clip", ", ".join(map(json.dumps, filter(None, model_name(backbone))))
        case "dual_encoder":
            name = "images" if task.format == "image" else "sentences"
        case "encoder" | "decoder":
            name = "plain" if without_adapter else "adapter"
    decoder = backbone.family == "decoder"
    return Template((TEXTS / f"{name}.md").read_text(encoding="utf-8")).substitute(
        task=task.description,
        labels=", ".join(task.labels),
        model=model,
        setup=context.backbone.setup_lines if isinstance(context.backbone, DualEncoder) else "",
        reason=without_adapter,
        auto="AutoModelForCausalLM" if decoder else "AutoModelForSequenceClassification",
        load=model if decoder else f"{model}, num_labels={1 if task.format == 'copa' else len(task.labels)}",
        tokenizer=model,
    )
