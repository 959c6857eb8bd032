"""The result of a finished run, read from its directory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from shared.errors import UserError
from trainer.result.classifier import Classifier
from trainer.result.summary import lineage_lines, table
from trainer.runs.directory import BEST_TENSORS, SUMMARY, read_json


@dataclass(frozen=True)
class RunResult:
    """What a run found. `print` shows its figures."""

    directory: Path
    summary: Mapping[str, Any]
    """The contents of `summary.json`: figures, words, lineage, counts. docs/history.md describes them."""
    prompts: list[Tensor]
    """The soft prompts [tokens, dim] of the result, the best first."""
    class_embeddings: Tensor | None
    """[classes, dim], unit length; None where the backbone has none."""

    @classmethod
    def load(cls, directory: Path) -> "RunResult":
        """The result of the finished run in `directory`.

        Raises:
            UserError: the run is not finished, or its files are damaged.
        """
        summary = read_json(directory / SUMMARY)
        try:
            tensors = load_file(directory / BEST_TENSORS)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{directory / BEST_TENSORS}: cannot be read: {error}") from None
        numbers = sorted(int(name.removeprefix("prompt.")) for name in tensors if name.startswith("prompt."))
        return cls(directory, summary, [tensors[f"prompt.{n}"] for n in numbers], tensors.get("class_embeddings"))

    @property
    def dev(self) -> Mapping[str, float]:
        """Loss and accuracy on the development split."""
        return dict(self.summary["dev"])

    @property
    def test(self) -> Mapping[str, float]:
        """Loss, accuracy and the task's own metrics on the test split."""
        return dict(self.summary["test"])

    @property
    def words(self) -> list[str]:
        """The words nearest to each of the result's prompts."""
        return [str(member["words"]) for member in self.summary["members"]]

    @property
    def lineage(self) -> list[Mapping[str, Any]]:
        """Where the best prompt comes from: `source`, `words` and `step` of each origin, oldest first."""
        return list(self.summary["lineage"])

    def classifier(self) -> Classifier:
        """The tuned classifier, which labels new examples."""
        return Classifier.load(str(self.directory))

    def __str__(self) -> str:
        """The figures as a table, the majority class, and the lineage in words."""
        majority = ", ".join(f"{name} {value:.1%}" for name, value in self.summary["majority"].items())
        lineage = "\n".join(lineage_lines(self.summary))
        return f"{table(self.summary)}\nalways the same class: test {majority} at best\n\n{lineage}"
