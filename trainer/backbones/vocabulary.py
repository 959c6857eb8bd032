"""Vectors to words and back: the words nearest to a soft prompt, and those that its gradient points to."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from tokenizers.decoders import ByteLevel
from torch import Tensor

Mark = Literal["Ġ", "▁", "</w>", "##", ""]
"""How a tokenizer marks words and their parts: byte-level byte pairs (GPT-2, RoBERTa, SmolLM2, Qwen) begin a word with
Ġ and SentencePiece (Llama 2, Gemma) with ▁, CLIP's byte pairs end one with </w>, WordPiece goes on with ##."""

STARTS: tuple[Mark, ...] = ("Ġ", "▁", "##")
BYTES = ByteLevel()
"""Turns byte-level tokens, in which each letter stands for a byte, into text."""


FINGERPRINT_ROWS = 1000
ROWS = 2**14
"""Rows of the table that are turned to float32 at once."""

VECTORS = 128
"""Vectors that are compared with all words at once."""

EPSILON = 1e-12
"""A vector of zeros has cosine 0 with every word."""


class Vocabulary:
    """The tokens of a frozen model that are whole words.

    Special, unused and sub-word tokens, digits and punctuation do not count as words: with them among the
    candidates, the nearest "word" of a MiniLM prompt is [MASK] whatever the prompt.
    """

    def __init__(self, tokenizer: Any, embeddings: Tensor) -> None:
        """Take a transformers tokenizer and the model's input embeddings [vocabulary, dim]; no copy is made."""
        self._tokenizer = tokenizer
        self.embeddings = embeddings.detach()

    def vectors(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Input embeddings [tokens, dim] of token ids, float32."""
        return self.embeddings[torch.as_tensor(ids, dtype=torch.long, device=self.embeddings.device)].float()

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean [dim] of all embeddings, and the standard deviation of their numbers around one mean for all."""
        tables = [
            (table.double().sum(0), table.double().square().sum()) for table in torch.split(self.embeddings, ROWS)
        ]
        sums, squares = (torch.stack(parts).sum(0) for parts in zip(*tables, strict=True))
        numbers = self.embeddings.numel()
        variance = (squares - sums.sum().square() / numbers) / (numbers - 1)
        return (sums / len(self.embeddings)).float(), variance.sqrt().float()

    @cached_property
    def words(self) -> dict[int, str]:
        """Token id to word, for the tokens that are whole words."""
        words = {index: self._word(token) for index, token in enumerate(self._tokens) if index not in self.special_ids}
        return {index: word for index, word in words.items() if word.isalpha()}

    def _word(self, token: str) -> str:
        """The word a token stands for; empty, or with other signs than letters, where that is not a word."""
        match self._mark:
            case "Ġ":
                return BYTES.decode([token[1:]]) if token.startswith("Ġ") else ""
            case "▁":
                return token[1:] if token.startswith("▁") else ""
            case "</w>":
                return BYTES.decode([token.removesuffix("</w>")]) if token.endswith("</w>") else ""
            case _:
                return token

    @cached_property
    def _tokens(self) -> list[str]:
        """The token of each row of the embeddings; empty for the rows with which models pad their tables."""
        return [token or "" for token in self._tokenizer.convert_ids_to_tokens(range(len(self.embeddings)))]

    @cached_property
    def _mark(self) -> Mark:
        """The commonest mark; some vocabularies have the others' signs as letters."""
        counts: dict[Mark, int] = {mark: sum(token.startswith(mark) for token in self._tokens) for mark in STARTS}
        counts["</w>"] = sum(token.endswith("</w>") for token in self._tokens)
        commonest = max(counts, key=counts.__getitem__)
        return commonest if counts[commonest] else ""

    @cached_property
    def special_ids(self) -> set[int]:
        """Ids of the special tokens, which `encode` drops."""
        added = self._tokenizer.added_tokens_decoder
        return {*self._tokenizer.all_special_ids, *(index for index, token in added.items() if token.special)}

    @cached_property
    def _lead(self) -> str:
        """What goes before a text so that its first word gets the token that it has inside a sentence."""
        marked = self._mark in ("Ġ", "▁")
        first = self._tokenizer.convert_ids_to_tokens(self._tokenizer("a", add_special_tokens=False)["input_ids"])[:1]
        return " " if marked and not "".join(first).startswith(self._mark) else ""

    @cached_property
    def _ids(self) -> Tensor:
        return torch.tensor(list(self.words), device=self.embeddings.device)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of some of the embeddings, in bfloat16: the same where the model is loaded in that type."""
        rows = self.embeddings[:: 1 + len(self.embeddings) // FINGERPRINT_ROWS].bfloat16().view(torch.int16)
        return hashlib.sha256(rows.cpu().numpy().tobytes()).hexdigest()

    @cached_property
    def _norms(self) -> Tensor:
        """Lengths of the words' vectors, [words]."""
        return torch.cat([table.float().norm(dim=-1) for table in torch.split(self.embeddings, ROWS)])[self._ids]

    def _products(self, vectors: Tensor) -> Tensor:
        """Inner products [n, words] of `vectors` [n, dim] and the words' vectors, without a copy of the table."""
        products = [vectors @ table.float().T for table in torch.split(self.embeddings, ROWS)]
        return torch.cat(products, dim=-1)[:, self._ids]

    def encode(self, text: str, max_tokens: int) -> Tensor:
        """Token ids [at most `max_tokens`] of untrusted text; special tokens in it become plain text or are dropped.

        Words get the tokens that they have inside a sentence, the first one too.
        """
        text = self._lead + text.lstrip() if self._lead else text
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text.strip() else []
        return torch.tensor([index for index in ids if index not in self.special_ids][:max_tokens], dtype=torch.long)

    def decode(self, ids: Tensor) -> str:
        """The text of token ids."""
        return str(self._tokenizer.decode(ids.tolist())).strip()

    def embed(self, text: str, max_tokens: int) -> Tensor:
        """Input embeddings [tokens, dim] of a text's first `max_tokens` tokens."""
        return self.vectors(self.encode(text, max_tokens))

    def sample(self, count: int, generator: torch.Generator) -> str:
        """`count` words drawn uniformly."""
        chosen = torch.randint(len(self.words), (count,), generator=generator)
        return " ".join(self.words[int(self._ids[index])] for index in chosen)

    def nearest(self, vectors: Tensor, metric: Literal["cosine", "l2"] = "cosine") -> tuple[list[str], float]:
        """The word nearest to each of `vectors` [n, dim], and the mean cosine between the two."""
        parts = [self._nearest(part, metric) for part in torch.split(vectors, VECTORS)]
        chosen, cosines = (torch.cat(found) for found in zip(*parts, strict=True))
        return [self.words[index] for index in self._ids[chosen].tolist()], cosines.mean().item()

    def _nearest(self, vectors: Tensor, metric: Literal["cosine", "l2"]) -> tuple[Tensor, Tensor]:
        """Places [n] of the nearest words in `_ids`, and the cosines [n]."""
        products = self._products(vectors)
        cosines = products / (vectors.norm(dim=-1, keepdim=True) * self._norms).clamp(min=EPSILON)
        chosen = cosines.argmax(-1) if metric == "cosine" else (self._norms.square() - 2 * products).argmin(-1)
        return chosen, cosines.gather(-1, chosen[:, None])[:, 0]

    def hotflip_candidates(self, gradient: Tensor, count: int) -> list[list[str]]:
        """The words that descent along `gradient` [n, dim] moves each position to.

        These are the `count` words w with the most negative inner product of the gradient and e(w):
        the first-order change of the loss when the position is replaced by w (HotFlip, Ebrahimi et
        al. 2018) differs from it only by a constant.
        """
        count = min(count, len(self.words))
        parts = (self._products(part) for part in torch.split(gradient, VECTORS))
        order = torch.cat([products.topk(count, dim=-1, largest=False).indices for products in parts])
        return [[self.words[index] for index in row] for row in self._ids[order].tolist()]
