"""The controls: restarts from random words or from noise, which show how much of a gain is the LLM's."""

from collections.abc import Callable
from typing import Literal

from bus.messages import Digest
from trainer.search.prompt_init import PromptInit

Control = Literal["random", "vocabulary"]


def control(source: Control, prompt_init: PromptInit) -> Callable[[Digest], list[str]]:
    """A proposer function that gives as many candidates as a digest asks for.

    `vocabulary` draws words. The candidates of `random` are names without a meaning: the noise that each starts from
    is drawn by the number of the candidate.
    """

    def propose(digest: Digest) -> list[str]:
        if source == "random":
            return [f"noise {digest.sequence}.{number}" for number in range(1, digest.wanted + 1)]
        return [prompt_init.random_words() for _ in range(digest.wanted)]

    return propose
