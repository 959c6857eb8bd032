"""Where a prompt starts: words, words drawn at random, or noise."""

import torch
from torch import Tensor

from bus.messages import Digest
from shared.errors import UserError
from shared.settings import Settings
from trainer.backbones.vocabulary import Vocabulary
from trainer.search.lanes import Origin

NOISE = "noise "
"""The control `random` proposes names instead of words: `noise 17`, where the number is a seed."""

DRAWN_WORDS = 4
"""Words of a start drawn from the vocabulary: about as long as prompts that people write."""


class PromptInit:
    """Turns words into prompts of at most `prompt.num_tokens` tokens, the same for each context of the backbone."""

    def __init__(self, settings: Settings, vocabulary: Vocabulary, num_contexts: int = 1) -> None:
        self._settings = settings
        self._vocabulary = vocabulary
        self._num_contexts = num_contexts
        self.generator = torch.Generator().manual_seed(settings.seed)

    def first(self) -> tuple[Tensor, Origin]:
        """The prompt [contexts * tokens, dim] that the run starts from.

        Raises:
            UserError: `prompt.words` hold no word.
        """
        match self._settings.prompt.init:
            case "words":
                words = self.trim(self._settings.prompt.words)
                if not words:
                    raise UserError("prompt.words holds no word that the model knows; write some or set prompt.init")
                return self.embed(words), Origin("words", words, 0)
            case "vocabulary":
                words = self.trim(self._draw())
                return self.embed(words), Origin("vocabulary", words, 0)
            case "random":
                return self._gaussian(self._settings.seed), Origin("random", "", 0)

    def trim(self, words: str) -> str:
        """The part of `words` that fits into a prompt; empty if there is none."""
        ids = self._vocabulary.encode(words, self._settings.prompt.num_tokens + 1)
        if len(ids) <= self._settings.prompt.num_tokens:
            return words if len(ids) else ""
        return self._vocabulary.decode(ids[:-1])

    def embed(self, words: str) -> Tensor:
        """The prompt [contexts * tokens, dim] that says `words`."""
        if self._settings.restarts.source == "random" and words.startswith(NOISE):
            return self._gaussian(int(words.removeprefix(NOISE)))
        return self._vocabulary.embed(words, self._settings.prompt.num_tokens).repeat(self._num_contexts, 1)

    def propose(self, digest: Digest) -> list[str]:
        """The controls: as many starts as an LLM is asked for, from noise or from words drawn at random."""
        draw = self._noise if self._settings.restarts.source == "random" else self._draw
        return [draw() for _ in range(digest.num_candidates)]

    def _draw(self) -> str:
        """A few words drawn uniformly from the vocabulary, each one token."""
        return self._vocabulary.sample(min(DRAWN_WORDS, self._settings.prompt.num_tokens), self.generator)

    def _noise(self) -> str:
        return f"{NOISE}{int(torch.randint(2**31, (1,), generator=self.generator))}"

    def _gaussian(self, seed: int) -> Tensor:
        """Noise with the mean and deviation of the words' embeddings."""
        embeddings = self._vocabulary.embeddings
        generator = torch.Generator().manual_seed(seed)
        rows = self._num_contexts * self._settings.prompt.num_tokens
        noise = torch.randn(rows, embeddings.shape[1], generator=generator)
        return noise.to(embeddings.device) * embeddings.std() + embeddings.mean(0)
