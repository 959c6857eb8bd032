"""CLIP or SigLIP: class texts go through the text tower, images through the vision tower."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize, pad
from transformers import AutoModel, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # that of the top needs torchvision

from shared.errors import UserError
from shared.settings import BackboneSettings
from trainer.backbones.features import identify
from trainer.backbones.frozen_linear import use_onednn
from trainer.backbones.image_towers import ImageTowers, looking_up
from trainer.backbones.model_files import SAFE, check_loaded, refusing, setting_of
from trainer.backbones.model_inputs import check_tokenizer, token_embeddings
from trainer.backbones.model_options import freeze, load_options
from trainer.backbones.vocabulary import Vocabulary


class ClipTowers(ImageTowers):
    """A frozen `CLIPModel` or `SiglipModel`; bfloat16 on CUDA, with vectors in float32.

    CLIP's class texts end in a full stop before the end token, as CoOp's do: "a photo of a dog."
    SigLIP reads no start token and no mask: texts are padded to the one length it was trained with.
    """

    def __init__(self, name: str, settings: BackboneSettings, device: torch.device) -> None:
        """Load the folder or hub name `name`.

        Raises:
            UserError: model, tokenizer or image processor cannot be loaded, or do not fit each other.
        """
        options = load_options(settings, device)
        self.dtype: torch.dtype = options["dtype"]
        model, tokenizer, self._processor = _load(name, settings, options)
        self.config = model.config.text_config
        with refusing(settings, "is built unlike CLIP and SigLIP", "choose one of these"):
            freeze(model, settings, device)
            use_onednn(model)
            self._model = model
            self._lookup = model.text_model.get_input_embeddings()
            self.device = self._lookup.weight.device
            self._is_siglip = model.config.model_type.startswith("siglip")
            self.vocabulary = Vocabulary(tokenizer, token_embeddings(settings, model.text_model))
            self.max_length = int(self.config.max_position_embeddings)
            self.temperature = float(model.logit_scale.detach().float().exp().reciprocal())
            self.image_size = int(model.config.vision_config.image_size)
        check_tokenizer(settings, tokenizer, self.vocabulary)
        special = (tokenizer.eos_token_id, tokenizer.pad_token_id if self._is_siglip else tokenizer.bos_token_id)
        if None in special:
            raise UserError(
                f"{setting_of(settings)}: the tokenizer lacks a start, end or padding token; "
                "use the tokenizer_config.json that belongs to the model"
            )
        self.prefix_ids = [] if self._is_siglip else [tokenizer.bos_token_id]
        full_stop = [] if self._is_siglip else self.vocabulary.encode(".", 1).tolist()
        self.suffix_ids = [*full_stop, tokenizer.eos_token_id]
        self._padding: int = tokenizer.pad_token_id
        self._padding_vector = self.vocabulary.vectors([self._padding]) if self._is_siglip else None
        commit = getattr(model.config, "_commit_hash", None)
        self.identity = f"{identify(name, commit)}\n{self.dtype} {settings.quantization}"

    def encode_embeds(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [texts, dim] of input embeddings [texts, tokens, width], whose padding is at the end.

        CLIP needs no mask: it is causal and reads the end token.
        """
        if self._padding_vector is not None:
            embeds = torch.where(mask[..., None], embeds, self._padding_vector)
            padding = self._padding_vector.expand(len(embeds), self.max_length - embeds.shape[1], -1)
            embeds = torch.cat([embeds, padding], dim=1)
        ids = torch.zeros(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        ids.scatter_(1, mask.sum(1, keepdim=True) - 1, self.suffix_ids[-1])
        with looking_up(self._lookup, embeds):
            return normalize(self._model.get_text_features(input_ids=ids).pooler_output.float(), dim=-1)

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Unit vectors [texts, dim] of token ids [texts, tokens] without padding."""
        if self._is_siglip:
            ids = pad(ids, (0, self.max_length - ids.shape[1]), value=self._padding)
        return normalize(self._model.get_text_features(input_ids=ids).pooler_output.float(), dim=-1)

    def to_pixels(self, images: list[Image.Image]) -> Tensor:
        """Images as the model reads them, [images, channels, side, side]."""
        pixels: Tensor = self._processor(images=images, return_tensors="pt")["pixel_values"]
        return pixels

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Unit vectors [images, dim]."""
        pixels = pixels.to(self._model.device, self._model.dtype)
        return normalize(self._model.get_image_features(pixel_values=pixels).pooler_output.float(), dim=-1)


def _load(name: str, settings: BackboneSettings, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor."""
    what, hint = "cannot be loaded as CLIP", "copy the model again or choose another"
    load_model: Any = AutoModel.from_pretrained  # whose types leave out what output_loading_info adds
    load_processor: Any = AutoImageProcessor.from_pretrained  # untyped in transformers
    with refusing(settings, f"{what}, its tokenizer", hint):
        tokenizer = AutoTokenizer.from_pretrained(name, **SAFE)
    with refusing(settings, f"{what}, its weights", hint):
        checks = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, found = load_model(name, **options, **checks, **SAFE)
    check_loaded(settings, model, found)
    with refusing(settings, f"{what}, its image processor (preprocessor_config.json)", hint):
        # Pillow resizes as CLIP's own preparation does, and needs no torchvision.
        processor = load_processor(name, backend="pil", **SAFE)
    return model, tokenizer, processor
