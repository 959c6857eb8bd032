"""Between vectors and words: what a soft prompt says, and where its gradient points."""

from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

WORD_STARTS = ("Ġ", "▁")  # how byte-pair and unigram tokenizers mark a token that begins a word


class Vocabulary:
    """The tokens of a frozen model that are whole words.

    Special, unused and sub-word tokens, digits and punctuation are no words: with them among the
    candidates, the nearest "word" of a MiniLM prompt is [MASK] whatever the prompt.
    """

    def __init__(self, tokenizer: Any, embeddings: Tensor) -> None:
        """Take a transformers tokenizer and the model's input embeddings [vocabulary, dim]."""
        self._tokenizer = tokenizer
        self.embeddings = embeddings

    @cached_property
    def words(self) -> dict[int, str]:
        """Token id to word, for the tokens that are whole words."""
        tokens: list[str] = self._tokenizer.convert_ids_to_tokens(range(len(self.embeddings)))
        marked = any(token and token.startswith(WORD_STARTS) for token in tokens)
        special = set(self._tokenizer.all_special_ids)
        return {
            index: token.lstrip("".join(WORD_STARTS))
            for index, token in enumerate(tokens)
            if token
            and index not in special
            and token.startswith(WORD_STARTS) == marked
            and token.lstrip("".join(WORD_STARTS)).isalpha()
        }

    @cached_property
    def _ids(self) -> Tensor:
        return torch.tensor(list(self.words), device=self.embeddings.device)

    @cached_property
    def _vectors(self) -> Tensor:
        return self.embeddings[self._ids]

    def encode(self, text: str, most: int) -> Tensor:
        """Token ids [at most `most`] of untrusted text; what looks like a special token is plain text or dropped."""
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        special = set(self._tokenizer.all_special_ids)
        return torch.tensor([index for index in ids if index not in special][:most], dtype=torch.long)

    def decode(self, ids: Tensor) -> str:
        """The text of token ids."""
        return str(self._tokenizer.decode(ids.tolist())).strip()

    def embed(self, text: str, most: int) -> Tensor:
        """Input embeddings [tokens, dim] of a text's first `most` tokens."""
        return self.embeddings[self.encode(text, most).to(self.embeddings.device)].clone()

    def sample(self, count: int, generator: torch.Generator) -> str:
        """`count` words drawn uniformly."""
        chosen = torch.randint(len(self.words), (count,), generator=generator)
        return " ".join(self.words[int(self._ids[index])] for index in chosen)

    def nearest(self, vectors: Tensor, metric: Literal["cosine", "l2"] = "cosine") -> tuple[list[str], float]:
        """The word nearest to each of `vectors` [n, dim], and the mean cosine between the two."""
        unit = normalize(vectors, dim=-1) @ self._unit_vectors.T
        chosen = unit.argmax(-1) if metric == "cosine" else torch.cdist(vectors, self._vectors).argmin(-1)
        nearness = unit.gather(-1, chosen[:, None]).mean().item()
        return [self.words[int(self._ids[index])] for index in chosen], nearness

    @cached_property
    def _unit_vectors(self) -> Tensor:
        return normalize(self._vectors, dim=-1)

    def pushed_toward(self, gradient: Tensor, count: int) -> list[list[str]]:
        """Where descent along `gradient` [n, dim] leads each position.

        These are the `count` words w with the most negative inner product of the gradient and e(w):
        the first-order change of the loss when the position is replaced by w (HotFlip, Ebrahimi et
        al. 2018) differs from it only by a constant.
        """
        order = (gradient @ self._vectors.T).topk(count, dim=-1, largest=False).indices
        return [[self.words[int(self._ids[index])] for index in row] for row in order]
