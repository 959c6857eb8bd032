"""The two frozen towers of a dual encoder: one reads class texts, the other examples."""

from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from shared.errors import UserError, first_line
from shared.settings import BackboneSettings
from trainer.backbones.clip_towers import ClipTowers
from trainer.backbones.sentence_towers import SentenceTowers
from trainer.backbones.vocabulary import Vocabulary
from trainer.paths import find_model
from trainer.tasks.examples import Example


class Towers(Protocol):
    """Class texts and examples as unit vectors of one space."""

    vocabulary: Vocabulary
    prefix_ids: list[int]
    """Tokens before a class text."""
    suffix_ids: list[int]
    """Tokens after it."""
    max_length: int
    """Most tokens of a class text, `prefix_ids` and `suffix_ids` included."""
    temperature: float
    """What cosines are divided by where no setting says."""
    image_size: int
    """Pixels along the edge of the images that the examples are; 0 where they are texts."""

    def encode_embeds(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [texts, dim] of input embeddings [texts, tokens, width], whose padding is at the end."""

    def open(self, examples: list[Example]) -> list[Any]:
        """The texts or images that the examples are.

        Raises:
            UserError: they are something else, or an image cannot be read.
        """

    def encode(self, opened: list[Any]) -> Tensor:
        """Unit vectors [examples, dim] of what `open` gave."""


def load_towers(settings: BackboneSettings, device: torch.device) -> Towers:
    """Load the model that `settings` name: CLIP or SigLIP, or else a sentence encoder as both towers.

    Raises:
        UserError: there is no such model, or it is neither.
    """
    name = find_model(settings)
    try:
        tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
        if hasattr(model, "get_image_features"):
            return ClipTowers(name, tokenizer, model, device)
    except (OSError, ValueError, SafetensorError) as error:
        key = "backbone.path" if settings.path else "backbone.hub"
        raise UserError(
            f"{key} = {name!r} cannot be loaded as a sentence encoder or CLIP: {first_line(error)}"
        ) from None
    return SentenceTowers(name, tokenizer, model, device, settings.max_tokens)
