"""The interface of a frozen model to the training loop, the same for every family."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from trainer.backbones.stack import Stack
from trainer.backbones.vocabulary import Vocabulary
from trainer.tasks.examples import Example


class EncodedExamples(Protocol):
    """Examples as one family reads them: vectors, token ids, images."""

    def __len__(self) -> int:
        """How many examples."""

    def __getitem__(self, rows: Tensor, /) -> Self:
        """The examples at `rows`, int64 [n]."""


class Backbone(Protocol):
    """A frozen model that takes soft prompts."""

    device: torch.device
    vocabulary: Vocabulary

    @property
    def num_contexts(self) -> int:
        """Prompts in one lane: 1, or the number of classes where each has its own."""

    def prepare(self, examples: list[Example], what: str, beat: Callable[[], None]) -> Any:
        """Encode examples once; `what` names them on the progress bar, `beat` is called after each chunk."""

    def lengths(self, rows: Any) -> Tensor | None:
        """Tokens of each example, [examples], where batches of similar length save work; else None."""

    def micro_batch(self, stack: Stack, rows: Any) -> int:
        """How many of `rows` go through one training pass in bounded memory without being computed twice."""

    def new_head(self, seed: int) -> dict[str, Tensor]:
        """Fresh trainable parameters other than the prompt, by name, fixed by the seed; empty where there are none."""

    def logits(self, stack: Stack, rows: Any, training: bool = False) -> Tensor:
        """Class scores [lanes, examples, classes], float32; `training` switches on dropout.

        Randomness comes from torch's global generator, which the loop seeds before each step.
        """


@runtime_checkable
class Augments(Protocol):
    """A backbone that may train on random views of its examples."""

    def views(self, rows: Any, batches: Iterator[tuple[int, Tensor]], seed: int) -> Iterator[Any] | None:
        """The encoded examples of each batch, given by iteration and rows; None where it trains on the examples."""


@runtime_checkable
class HasClassEmbeddings(Protocol):
    """A backbone that compares examples with a vector for each class, which can be averaged and exported."""

    def class_embeddings(self, stack: Stack) -> Tensor:
        """Unit vectors [lanes, classes, dim] of the classes."""

    def classify(self, class_embeddings: Tensor, rows: Any) -> Tensor:
        """Class scores [lanes, examples, classes] from class vectors [lanes, classes, dim]."""
