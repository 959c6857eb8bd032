"""Runs: one arm of a condition with one seed, each in a folder of its own."""

from dataclasses import dataclass
from pathlib import Path

from scripts.comparison.arms import Arm, changed
from shared.settings import Settings
from trainer.runs.directory import SUMMARY


@dataclass(frozen=True)
class PlannedRun:
    """A run to make, or made."""

    condition: str
    arm: Arm
    seed: int
    settings: Settings

    @property
    def path(self) -> Path:
        """Its directory."""
        return Path(self.settings.folder) / str(self.settings.name)

    @property
    def is_finished(self) -> bool:
        """Whether its result is there."""
        return (self.path / SUMMARY).is_file()


def plan(condition: str, base: Settings, arms: list[Arm], seeds: list[int], out: Path) -> list[PlannedRun]:
    """The runs of a condition with the settings `base`, seed by seed, so that arms can be paired early."""
    runs = []
    for seed in seeds:
        for arm in arms:
            own = {"folder": str(out / condition), "name": f"{arm.name}-s{seed}", "seed": seed}
            one_core = {"threads": base.threads or 1}  # the others are for the LLM and for runs that go on meanwhile
            runs.append(PlannedRun(condition, arm, seed, changed(arm.apply(base), {**own, **one_core})))
    return runs
