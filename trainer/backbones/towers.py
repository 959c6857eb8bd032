"""The two frozen towers of a dual encoder: one reads class texts, the other examples."""

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import MODEL_MAPPING, AutoConfig

from shared.settings import BackboneSettings
from trainer.backbones.clip_towers import ClipTowers
from trainer.backbones.model_files import SAFE, check_files
from trainer.backbones.open_clip_towers import OpenClipTowers
from trainer.backbones.sentence_towers import SentenceTowers
from trainer.backbones.vocabulary import Vocabulary
from trainer.tasks.examples import Example


class Towers(Protocol):
    """Class texts and examples as unit vectors of one space."""

    vocabulary: Vocabulary
    config: Any
    """The size of the tower that reads class texts, as transformers describes it."""
    device: torch.device
    """Where texts enter."""
    dtype: torch.dtype
    """Of the frozen weights."""
    prefix_ids: list[int]
    """Tokens before a class text."""
    suffix_ids: list[int]
    """Tokens after it."""
    max_length: int
    """Most tokens of a class text, `prefix_ids` and `suffix_ids` included."""
    setup_lines: str
    """Python lines after which `model`, a SentenceTransformer, gives the vectors of `encode`; empty for images."""
    temperature: float
    """What cosines are divided by where no setting says."""

    def encode_embeds(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [texts, dim] of input embeddings [texts, tokens, width], whose padding is at the end."""

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Unit vectors [texts, dim] of token ids [texts, tokens] without padding, by the model's own pass."""

    def read(self, examples: list[Example]) -> list[Any]:
        """The texts or images that the examples are.

        Raises:
            UserError: they are something else, or an image cannot be read.
        """

    def encode(self, inputs: list[Any]) -> Tensor:
        """Unit vectors [examples, dim] of what `read` gave."""


def load_towers(settings: BackboneSettings, device: torch.device) -> Towers:
    """Load the model that `settings` name: open_clip's, CLIP or SigLIP, or else a sentence encoder as both towers.

    Raises:
        UserError: no such model, or it is none of these.
    """
    if settings.library == "open_clip":
        return OpenClipTowers(settings, device)
    name = check_files(settings)
    return ClipTowers(name, settings, device) if _reads_images(name) else SentenceTowers(name, settings, device)


def _reads_images(name: str) -> bool:
    """Whether a model has a tower for images; false if unknown: SentenceTowers then says what is wrong."""
    try:
        config = AutoConfig.from_pretrained(name, **SAFE)
    except Exception:  # see model_files.refusing
        return False
    return hasattr(MODEL_MAPPING.get(type(config), None), "get_image_features")
