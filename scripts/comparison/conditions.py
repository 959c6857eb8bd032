"""Conditions: what all arms of a table share, a recipe with its start and its number of examples."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from scripts.comparison.arms import changed
from shared.config import CommandLine
from shared.errors import UserError
from shared.settings import Settings

GENERIC = "a text about"
STARTS: dict[str, dict[str, Any]] = {
    "words": {"prompt.init": "words"},
    "generic": {"prompt.init": "words", "prompt.words": GENERIC},
    "random": {"prompt.init": "random"},
}
"""words: the recipe's own words; generic: words that suit any text; random: noise."""


@dataclass(frozen=True)
class Condition:
    """A recipe, and what is changed in it for all arms alike."""

    recipe: str
    start: str | None
    """One of `STARTS`; None is the recipe's own start."""
    shots: int | None
    """Training examples a class; None is the recipe's number."""

    @property
    def name(self) -> str:
        """Its folder's name."""
        parts = [Path(self.recipe).stem, self.start, self.shots and f"{self.shots}shots"]
        return "-".join(str(part) for part in parts if part)

    def settings(self, extra: list[str], data: Path | None) -> Settings:
        """The settings that its arms change.

        Raises:
            UserError: a setting is wrong.
        """
        line = CommandLine("scripts/compare", "")
        settings = line.resolve(line.parse_args([self.recipe, "--no-baseline", *extra]))
        folder = data and _data(data, self.recipe)
        if folder and (folder.is_dir() or not settings.task.path):
            settings = changed(settings, {"task.path": str(folder), "task.hub": None})
        shots = {"task.shots": self.shots} if self.shots else {}
        return changed(settings, {**STARTS.get(self.start or "", {}), **shots})


def grid(recipes: list[str], starts: list[str], shots: list[int]) -> list[Condition]:
    """A condition for each combination; without starts or shots the recipe's own.

    Raises:
        UserError: two recipes would share a folder.
    """
    every_start: list[str | None] = [*starts] or [None]
    every_count: list[int | None] = [*shots] or [None]
    found = [Condition(*values) for values in product(recipes, every_start, every_count)]
    names = [condition.name for condition in found]
    if len(set(names)) < len(names):
        raise UserError(f"two conditions have the same name: {', '.join(sorted(names))}")
    return found


def _data(root: Path, recipe: str) -> Path:
    """The folder in `root` for the recipe's data, which may be absent."""
    stem = Path(recipe).stem.partition("-")[0].lower()
    same = [path for path in sorted(root.iterdir()) if path.name.lower() == stem]
    return next((path for path in (root / Path(recipe).stem, *same) if path.is_dir()), root / recipe)
