"""Dual encoder: class texts carry the soft prompt, examples are encoded once.

A class text is `[prompt] [label words]` between the encoder's special tokens. Class and example
vectors are compared by cosine, as CoOp does with CLIP (Zhou et al. 2022); here both sides are text.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from shared.errors import UserError
from shared.settings import BackboneSettings
from trainer.lanes import Stack, stack
from trainer.places import find_folder
from trainer.progress import track
from trainer.vocabulary import Vocabulary

BATCH = 64
"""Texts encoded in one pass."""


class DualEncoder:
    """A frozen sentence encoder in both roles."""

    def __init__(self, settings: BackboneSettings, labels: list[str], device: torch.device) -> None:
        """Load model and tokenizer; `labels` are the words that name the classes."""
        self.settings = settings
        self.device = device
        self._tokenizer, self._model, self._pool_first = _load(settings)
        self._model.to(device).eval().requires_grad_(False)
        embeddings = self._model.get_input_embeddings().weight.detach()
        self.dim: int = embeddings.shape[1]
        self.vocabulary = Vocabulary(self._tokenizer, embeddings)
        self._encoded: dict[str, Tensor] = {}
        self._labels, self._label_mask = self._embed_labels(labels)

    def _embed_labels(self, labels: list[str]) -> tuple[Tensor, Tensor]:
        """Label words [classes, longest, dim] and their mask [classes, longest]."""
        ids = [self.vocabulary.encode(label, self.settings.max_tokens) for label in labels]
        empty = [label for label, tokens in zip(labels, ids, strict=True) if not len(tokens)]
        if empty:
            raise UserError(f"label {empty[0]!r} (task.labels) has no words that the model knows")
        words = stack([self.vocabulary.embeddings[tokens.to(self.device)] for tokens in ids])
        return words.prompts, words.mask

    @torch.no_grad()
    def encode(self, texts: list[str], what: str, beat: Callable[[], None] = lambda: None) -> Tensor:
        """Unit vectors [texts, dim]; `what` names them on the progress bar, `beat` is called as it goes on."""
        most = min(self.settings.max_tokens, self._tokenizer.model_max_length)
        missing = sorted({text for text in texts if text not in self._encoded}, key=len)
        for chunk in track(list(_chunks(missing, BATCH)), f"encoding {what}"):
            tokens = self._tokenizer(chunk, padding=True, truncation=True, max_length=most, return_tensors="pt").to(
                self.device
            )
            hidden = self._model(**tokens).last_hidden_state
            self._encoded.update(zip(chunk, self._pool(hidden, tokens["attention_mask"]), strict=True))
            beat()
        return torch.stack([self._encoded[text] for text in texts])

    def logits(self, stack: Stack, examples: Tensor) -> Tensor:
        """Class scores [lanes, examples, classes]."""
        return self.classify(self.class_vectors(stack), examples)

    def classify(self, class_vectors: Tensor, examples: Tensor) -> Tensor:
        """Cosines of class vectors [lanes, classes, dim] and examples [examples, dim] over the temperature."""
        return examples @ class_vectors.transpose(-1, -2) / self.settings.temperature

    def class_vectors(self, stack: Stack) -> Tensor:
        """Unit vectors [lanes, classes, dim] of the class texts.

        Unused positions are masked and moved to the end, as a tokenizer pads, so a prompt that is
        words gives what the tokenizer and the encoder give for the same text.
        """
        lanes, classes = len(stack.prompts), len(self._labels)
        pieces = [(part.flatten(0, 1), mask.flatten(0, 1)) for part, mask in self._pieces(stack)]
        embeds = torch.cat([part for part, _ in pieces], dim=1)
        mask = torch.cat([mask for _, mask in pieces], dim=1)
        order = mask.sort(dim=1, descending=True, stable=True).indices[:, : int(mask.sum(1).max())]
        embeds, mask = embeds.gather(1, order[..., None].expand(-1, -1, self.dim)), mask.gather(1, order)
        hidden = self._model(inputs_embeds=embeds, attention_mask=mask.long()).last_hidden_state
        return self._pool(hidden, mask).view(lanes, classes, -1)

    def _pieces(self, stack: Stack) -> Iterator[tuple[Tensor, Tensor]]:
        """The parts of every class text, each [lanes, classes, tokens, dim] with its mask."""
        lanes, classes = len(stack.prompts), len(self._labels)
        prompts = stack.prompts[:, None].expand(-1, classes, -1, -1)
        mask = stack.mask[:, None].expand(-1, classes, -1)
        label = self._labels.expand(lanes, -1, -1, -1), self._label_mask.expand(lanes, -1, -1)
        begin, end = (
            self.vocabulary.embeddings[index].expand(lanes, classes, 1, -1)
            for index in (self._tokenizer.cls_token_id, self._tokenizer.sep_token_id)
        )
        always = torch.ones(lanes, classes, 1, dtype=torch.bool, device=self.device)
        yield begin, always
        match self.settings.label_position:
            case "end":
                yield from ((prompts, mask), label)
            case "front":
                yield from (label, (prompts, mask))
            case "middle":
                front = mask & (mask.cumsum(-1) <= mask.sum(-1, keepdim=True) // 2)  # each lane's own half
                yield from ((prompts, front), label, (prompts, mask & ~front))
        yield end, always

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Sentence vectors of unit length, pooled as the encoder was trained."""
        if self._pool_first:
            return normalize(hidden[:, 0], dim=-1)
        weights = mask[..., None].to(hidden.dtype)
        return normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def _load(settings: BackboneSettings) -> tuple[Any, Any, bool]:
    if settings.path is None and settings.hub is None:
        raise UserError("there is no model: set backbone.path to a folder, or backbone.hub")
    folder = find_folder(settings.path, "backbone.path") if settings.path else None
    name = str(folder or settings.hub)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModel.from_pretrained(name)
    except (OSError, ValueError, SafetensorError) as error:
        key = "backbone.path" if folder else "backbone.hub"
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{key} = {name!r} cannot be loaded as a sentence encoder: {reason}") from None
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise UserError(f"{name!r} is no sentence encoder: its tokenizer has no start and end tokens")
    return tokenizer, model, _pools_first(folder)


def _pools_first(folder: Path | None) -> bool:
    """Whether sentences are read at the first token, as sentence-transformers notes beside a model; else the mean."""
    path = folder / "1_Pooling" / "config.json" if folder else None
    if path is None or not path.is_file():
        return False
    return bool(json.loads(path.read_text(encoding="utf-8")).get("pooling_mode_cls_token", False))


def _chunks(texts: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]
