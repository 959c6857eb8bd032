"""Any model of open_clip, CLIP's ResNet-50 among them: class texts through its text tower, images through the other."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import normalize, pad
from transformers import CLIPTextConfig, CLIPTokenizer

from shared.errors import UserError
from shared.settings import BackboneSettings
from trainer.backbones.features import identify
from trainer.backbones.frozen_linear import use_onednn
from trainer.backbones.image_towers import ImageTowers, looking_up
from trainer.backbones.model_files import HINT, check_files, check_finite, refusing, setting_of
from trainer.backbones.model_inputs import check_tokenizer
from trainer.backbones.model_options import freeze, frozen_dtype
from trainer.backbones.vocabulary import Vocabulary
from trainer.paths import find_file

PRECISION = {torch.float32: "fp32", torch.bfloat16: "pure_bf16", torch.float16: "pure_fp16"}
"""The names that open_clip has for types of weights."""
SCHEMES = ("hf-hub:", "local-dir:")
"""How names begin for which open_clip finds the weights by itself."""
TRIES = 1000
"""Words of which one has to be the same token in a text; capitals, in a tokenizer that lowers them, are not."""


class OpenClipTowers(ImageTowers):
    """A frozen model of open_clip; bfloat16 on CUDA, with vectors in float32.

    Class texts of models with CLIP's own tokenizer end in a full stop before the end token, as CoOp's do.
    """

    def __init__(self, settings: BackboneSettings, device: torch.device) -> None:
        """Load the model.

        Raises:
            UserError: open_clip is missing, or the model cannot be loaded, or its parts do not fit each other.
        """
        self.dtype = frozen_dtype(settings, device)
        name, weights = model_name(settings)
        model, self._to_pixels, tokenizer = _load(settings, name, weights, self.dtype)
        with refusing(settings, "is built unlike open_clip's own models", "choose one of these"):
            freeze(model, settings, device)
            model.set_grad_checkpointing(settings.checkpointing)
            use_onednn(model)
            self._text = _TextTower(model)
            self._model = model
            self._lookup = self._text.lookup
            self.config = self._text.config
            self.device = self._lookup.weight.device
            self.temperature = float(model.logit_scale.detach().float().exp().reciprocal())
            sides = model.visual.image_size
            self.image_size = max(sides) if isinstance(sides, tuple | list) else int(sides)
            words = _words(tokenizer)
            self.vocabulary = Vocabulary(words, self._lookup.weight)
        check_tokenizer(settings, words, self.vocabulary)
        self.max_length = int(tokenizer.context_length)
        self._word, ids = self._text_of_a_word(settings, tokenizer)
        self.prefix_ids, self.suffix_ids, self._padding = self._frame(tokenizer, ids)
        self._padding_vector = self.vocabulary.vectors([self._padding])
        files = identify(weights or name.removeprefix("local-dir:"), None)
        self.identity = f"open_clip {name}\n{files}\n{self.vocabulary.fingerprint} {self.dtype}"

    def encode_embeds(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [texts, dim] of input embeddings [texts, tokens, width], whose padding is at the end."""
        missing = 0 if self._text.ignores_padding else self.max_length - embeds.shape[1]
        embeds, mask = pad(embeds, (0, 0, 0, missing)), pad(mask, (0, missing))
        embeds = torch.where(mask[..., None], embeds, self._padding_vector)
        ids = torch.where(mask, self._word, self._padding)
        if self.suffix_ids:
            ids.scatter_(1, mask.sum(1, keepdim=True) - 1, self.suffix_ids[-1])
        with looking_up(self._lookup, embeds):
            return normalize(self._text.encode(ids).float(), dim=-1)

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Unit vectors [texts, dim] of token ids [texts, tokens] without padding, as open_clip pads and reads them."""
        ids = pad(ids, (0, self.max_length - ids.shape[1]), value=self._padding)
        return normalize(self._model.encode_text(ids, normalize=False).float(), dim=-1)

    def to_pixels(self, images: list[Image.Image]) -> Tensor:
        """Images as the model reads them, [images, channels, side, side]."""
        return torch.stack([self._to_pixels(image) for image in images])

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Unit vectors [images, dim]."""
        vectors = self._model.encode_image(pixels.to(self.device, self.dtype), normalize=False)
        return normalize(vectors.float(), dim=-1)

    def _text_of_a_word(self, settings: BackboneSettings, tokenizer: Any) -> tuple[int, list[int]]:
        """A word, and the ids of a text of it alone, as open_clip lays it out."""
        for index, word in islice(self.vocabulary.words.items(), TRIES):
            ids: list[int] = tokenizer([word])[0].tolist()
            if index in ids:
                return index, ids
        raise UserError(f"{setting_of(settings)}: the tokenizer gives words other tokens in a text; {HINT}")

    def _frame(self, tokenizer: Any, ids: list[int]) -> tuple[list[int], list[int], int]:
        """The tokens before and after every text, and the one that fills it up."""
        at, padding = ids.index(self._word), ids[-1]
        after = ids[at + 1 :]
        while after and after[-1] == padding:
            after.pop()
        full_stop = self.vocabulary.encode(".", 1).tolist() if hasattr(tokenizer, "bpe_ranks") else []
        return ids[:at], [*full_stop, *after], padding


class _TextTower(nn.Module):
    """The part of a model of open_clip that reads texts, for texts of any length."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        text = getattr(model, "text", model)
        self._text = (text,)  # in a tuple, or its parts would have two names
        self._place = "model." if text is model else "model.text."
        self.ignores_padding = True
        if not hasattr(text, "token_embedding"):  # a model of transformers, else open_clip's own
            self.lookup: Any = text.transformer.get_input_embeddings()
            self.config: Any = text.transformer.config
            return
        self.lookup = text.token_embedding
        sizes = {"hidden_size": self.lookup.embedding_dim, "num_hidden_layers": text.transformer.layers}
        self.config = CLIPTextConfig(**sizes)
        pool = getattr(text, "pool_type", None) or text.text_pool_type
        is_causal = text.attn_mask is not None and getattr(text, "cls_emb", None) is None
        self.ignores_padding = is_causal and pool in ("argmax", "eos")

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors [texts, dim] of token ids [texts, tokens]."""
        vectors: Tensor = self.model.encode_text(ids, normalize=False)
        return vectors

    def encode(self, ids: Tensor) -> Tensor:
        """The same without padding to full length, where the model `ignores_padding`."""
        (text,), length = self._text, ids.shape[1]
        first = {}
        if self.ignores_padding and hasattr(text, "attn_mask"):  # open_clip's own takes texts of full length alone
            first[f"{self._place}positional_embedding"] = text.positional_embedding[:length]
            first[f"{self._place}attn_mask"] = text.attn_mask[:length, :length]
        vectors: Tensor = functional_call(self, first, (ids,))
        return vectors


def model_name(settings: BackboneSettings) -> tuple[str, str | None]:
    """The model, and its weights unless its name says where they are, as open_clip's `create_model` takes the two.

    Raises:
        UserError: open_clip is missing or does not know the model or its weights.
    """
    open_clip = _library(settings)
    if settings.path:
        return f"local-dir:{check_files(settings)}", None
    name, what = (settings.hub or "").replace("/", "-"), setting_of(settings)
    if settings.hub and settings.hub.startswith(SCHEMES):
        if settings.pretrained:
            raise UserError(f"{what} has weights of its own, so that backbone.pretrained has no effect; remove it")
        return settings.hub, None
    known = open_clip.get_model_config(name)
    if known is None:
        alike = get_close_matches(name, open_clip.list_models())
        hint = f"did you mean {' or '.join(alike)}?" if alike else "name one of open_clip.list_models()"
        raise UserError(f"{what} is not a model of open_clip; {hint} A model of the hub is hf-hub:OWNER/NAME")
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
    if settings.pretrained is None:
        raise UserError(f"{what}: set backbone.pretrained to a file with its weights, or to a tag of open_clip: {tags}")
    if not open_clip.is_pretrained_cfg(name, settings.pretrained):
        try:
            return name, str(find_file(settings.pretrained, "backbone.pretrained"))
        except UserError as error:
            raise UserError(f"{error}, and not a tag that open_clip has for {name}: {tags}") from None
    trained = open_clip.get_pretrained_cfg(name, settings.pretrained).get("quick_gelu", False)
    if trained != known.get("quick_gelu", False):
        other = f"{name}-quickgelu" if trained else name.removesuffix("-quickgelu")
        raise UserError(
            f"{what} has another activation than backbone.pretrained = {settings.pretrained!r} was trained with; "
            f"set backbone.hub to {other}"
        )
    return name, settings.pretrained


def _library(settings: BackboneSettings) -> Any:
    if find_spec("open_clip") is None:
        raise UserError("backbone.library = 'open_clip' needs the package open-clip-torch: pip install open-clip-torch")
    with refusing(
        settings, "needs open_clip, which cannot be imported", "install torchvision's release for your torch"
    ):
        import open_clip
    return open_clip


def _load(settings: BackboneSettings, name: str, weights: str | None, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """Model, image transform and tokenizer."""
    open_clip = _library(settings)
    what, hint = "cannot be loaded by open_clip", "copy the weights again or choose others"
    with refusing(settings, what, hint), _silent():
        model, to_pixels = open_clip.create_model_from_pretrained(name, weights, precision=PRECISION[dtype])
        tokenizer = open_clip.get_tokenizer(name)
    check_finite(settings, model)
    return model, to_pixels, tokenizer


def _words(tokenizer: Any) -> Any:
    """The tokenizer by transformers, as which open_clip has those of other models than CLIP."""
    if not hasattr(tokenizer, "bpe_ranks"):
        return tokenizer.tokenizer
    start, end = (tokenizer.decoder[index] for index in tokenizer.all_special_ids[:2])
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    return CLIPTokenizer(vocab=tokenizer.encoder, merges=list(tokenizer.bpe_ranks), **special)


@contextmanager
def _silent() -> Iterator[None]:
    """open_clip reports to the root logger; what it raises says the same."""
    root = logging.getLogger()
    root.addFilter(_drop)
    try:
        yield
    finally:
        root.removeFilter(_drop)


def _drop(_: logging.LogRecord) -> bool:
    return False
