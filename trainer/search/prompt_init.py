"""Where a prompt starts: words, words drawn at random, or noise."""

import torch
from torch import Tensor

from shared.errors import UserError
from shared.settings import PromptSettings
from trainer.backbones.vocabulary import Vocabulary
from trainer.search.lanes import Origin

RANDOM_WORDS = 4
"""Words of a start drawn from the vocabulary: about as long as prompts that people write."""


class PromptInit:
    """Makes starting prompts [num_contexts * tokens, dim], the same for each context of the backbone."""

    def __init__(self, settings: PromptSettings, seed: int, vocabulary: Vocabulary, num_contexts: int = 1) -> None:
        self._settings = settings
        self._seed = seed
        self._vocabulary = vocabulary
        self._num_contexts = num_contexts
        self.generator = torch.Generator().manual_seed(seed)
        """Draws random words; a checkpoint saves its state."""

    def first(self) -> tuple[Tensor, Origin]:
        """The prompt that the run starts from.

        Raises:
            UserError: `prompt.words` has no word.
        """
        match self._settings.init:
            case "words":
                words = self.trim(self._settings.words)
                if not words:
                    raise UserError("prompt.words has no word that the model knows; write some or set prompt.init")
                return self.embed(words), Origin("words", words, 0)
            case "vocabulary":
                words = self.trim(self.random_words())
                return self.embed(words), Origin("vocabulary", words, 0)
            case "random":
                return self.noise(self._seed), Origin("random", "", 0)

    def trim(self, words: str) -> str:
        """The part of `words` that fits into `prompt.num_tokens` tokens; empty if there is none."""
        ids = self._vocabulary.encode(words, self._settings.num_tokens + 1)
        if len(ids) <= self._settings.num_tokens:
            return words if len(ids) else ""
        return self._vocabulary.decode(ids[:-1])

    def embed(self, words: str) -> Tensor:
        """The prompt that says `words`."""
        return self._vocabulary.embed(words, self._settings.num_tokens).repeat(self._num_contexts, 1)

    def random_words(self) -> str:
        """A few words drawn uniformly from the vocabulary, each one token."""
        return self._vocabulary.sample(min(RANDOM_WORDS, self._settings.num_tokens), self.generator)

    def noise(self, seed: int) -> Tensor:
        """Gaussian noise with the mean and deviation of the words' embeddings, the same for the same seed."""
        mean, deviation = self._vocabulary.moments()
        generator = torch.Generator().manual_seed(seed)
        rows = self._num_contexts * self._settings.num_tokens
        noise = torch.randn(rows, len(mean), generator=generator)
        return noise.to(mean.device) * deviation + mean
