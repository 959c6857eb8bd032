"""A sentence encoder such as MiniLM as both towers: class texts and examples are texts."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from shared.errors import UserError
from trainer.backbones.vocabulary import Vocabulary
from trainer.tasks.examples import Example


class SentenceTowers:
    """One frozen encoder, whose token vectors are pooled as it was trained."""

    temperature = 0.05
    image_size = 0

    def __init__(self, name: str, tokenizer: Any, model: Any, device: torch.device, max_tokens: int) -> None:
        """Take what was loaded from the folder or hub name `name`; examples are cut at `max_tokens`."""
        if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
            raise UserError(f"{name!r} is no sentence encoder: its tokenizer has no start and end tokens")
        self._tokenizer = tokenizer
        self._model = model.to(device).eval().requires_grad_(False)
        self._pool_first = _pools_first(Path(name))
        self._most = min(max_tokens, tokenizer.model_max_length)
        self.vocabulary = Vocabulary(tokenizer, model.get_input_embeddings().weight.detach())
        self.prefix_ids, self.suffix_ids = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
        positions = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
        self.max_length = int(min(tokenizer.model_max_length, positions))

    def encode_embeds(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [texts, dim] of input embeddings [texts, tokens, dim], whose padding is at the end."""
        hidden = self._model(inputs_embeds=embeds, attention_mask=mask.long()).last_hidden_state
        return self._pool(hidden, mask)

    def open(self, examples: list[Example]) -> list[str]:
        """The texts of the examples; two that stand side by side are two lines of one."""
        for example in examples:
            if len(example.choices) != 1:
                what = "an image" if example.image is not None else "a choice between texts"
                raise UserError(f"the model is a sentence encoder and reads texts, but an example is {what}")
        return ["\n".join(example.choices[0]) for example in examples]

    def encode(self, opened: list[str]) -> Tensor:
        """Unit vectors [texts, dim]."""
        tokens = self._tokenizer(opened, padding=True, truncation=True, max_length=self._most, return_tensors="pt")
        tokens = tokens.to(self._model.device)
        return self._pool(self._model(**tokens).last_hidden_state, tokens["attention_mask"])

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self._pool_first:
            return normalize(hidden[:, 0], dim=-1)
        weights = mask[..., None].to(hidden.dtype)
        return normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def _pools_first(folder: Path) -> bool:
    """Whether sentences are read at the first token, as sentence-transformers notes beside a model; else the mean."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return False
    return bool(json.loads(path.read_text(encoding="utf-8")).get("pooling_mode_cls_token", False))
