"""What a run learns from: examples, their splits, the task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from shared.settings import Format


@dataclass(frozen=True)
class Example:
    """One thing to classify: a text, two texts side by side, several choices of these, or an image."""

    choices: tuple[tuple[str, ...], ...] = ()
    """One choice of one or two texts; more where the classes are the example's own choices (COPA). None for images."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The row's columns as text, and `text` and `text2` as the form made them, for templates."""
    image: Path | bytes | None = None
    """A file, or an encoded image."""
    group: str = ""
    """Examples of one question, which are drawn and judged together (MultiRC, ReCoRD)."""
    answer: str = ""
    """What this example proposes as the answer to its question (ReCoRD)."""
    gold: tuple[str, ...] = ()
    """The right answers to its question (ReCoRD)."""

    @property
    def key(self) -> object:
        """Equal for examples that say the same."""
        return self.choices or self.image


@dataclass(frozen=True)
class Split:
    """Examples and their classes; `targets` is [examples], int64."""

    examples: list[Example]
    targets: Tensor


@dataclass(frozen=True)
class Task:
    """What is to be learned. `labels` are the words that name the classes, in order."""

    format: Format
    description: str
    labels: list[str]
    train: Split
    dev: Split
    test: Split
    """What is reported; touched once, at the end."""
