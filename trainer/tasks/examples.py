"""Examples, their splits, and the task they belong to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from shared.settings import Format


@dataclass(frozen=True)
class Example:
    """One example: a text, a pair of texts, several choices of these, or an image."""

    choices: tuple[tuple[str, ...], ...] = ()
    """One choice of one or two texts; several if the classes are the example's own choices (COPA). Empty for images."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The row's columns as text, and `text` and `text2` as the format builds them, for templates."""
    image: Path | bytes | None = None
    """A file, or an encoded image."""
    group: str = ""
    """The question that examples share; they are drawn and judged together (MultiRC, ReCoRD)."""
    answer: str = ""
    """The answer to its question that this example proposes (ReCoRD)."""
    gold: tuple[str, ...] = ()
    """The right answers to its question (ReCoRD)."""

    @property
    def key(self) -> object:
        """Equal for examples with the same content."""
        return self.choices or self.image


@dataclass(frozen=True)
class Split:
    """Examples and their classes; `targets` is [examples], int64."""

    examples: list[Example]
    targets: Tensor


@dataclass(frozen=True)
class Task:
    """Labelled splits. `labels` are the words that name the classes, in order."""

    format: Format
    description: str
    labels: list[str]
    train: Split
    dev: Split
    test: Split
    """The reported examples; used once, at the end."""
