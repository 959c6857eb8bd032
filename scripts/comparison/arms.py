"""Arms: the ways to tune that are compared, as changes to a recipe's settings."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.config import load
from shared.errors import UserError
from shared.settings import Settings

PLAIN = "plain"
BEST = "plain-best"
"""Plain tuning at the learning rate with the lowest development loss, by seed."""
VOCABULARY = "vocabulary"
"""Restarts from random words: the control that the arms of an LLM are compared with."""
MOST_STARTS = 9
"""The incumbent and as many challengers as settings allow."""

Changes = Mapping[str, Any]
"""Settings to change, by `section.key`."""

ARMS: dict[str, Changes] = {
    "head": {"restarts.policy": "none", "prompt.frozen": True},
    PLAIN: {"restarts.policy": "none"},
    "plain-slow": {"restarts.policy": "none", "optimizer.lr": 5e-4},
    "random": {"restarts.source": "random"},
    VOCABULARY: {"restarts.source": "vocabulary"},
    "llm": {"restarts.source": "bus"},
    "llm-sync": {"restarts.source": "bus", "restarts.mode": "sync"},
    "llm-shuffled": {"restarts.source": "bus", "restarts.digest": "shuffled"},
    "llm-blind": {"restarts.source": "bus", "restarts.digest": "blind"},
    "always": {"restarts.source": "bus", "restarts.mode": "sync", "restarts.policy": "always"},
    "greedy": {"restarts.source": "bus", "restarts.mode": "sync", "restarts.policy": "greedy"},
}
"""docs/compare.md describes them. Beside these there is plain-N, plain tuning from N starts at once."""


@dataclass(frozen=True)
class Arm:
    """One way to tune."""

    name: str
    changes: Changes
    delay: int = 0
    """Seconds that the LLM sleeps before it answers."""
    starts: int = 1
    """Prompts that plain tuning starts from at once."""

    @property
    def asks(self) -> bool:
        """Whether it needs a proposer."""
        return self.changes.get("restarts.source") == "bus"

    def apply(self, settings: Settings) -> Settings:
        """The settings of this arm.

        Raises:
            UserError: plain-N needs a budget in lane-steps.
        """
        if self.starts > 1:
            return changed(settings, _several_starts(self.starts, settings))
        if not self.delay:
            return changed(settings, self.changes)
        waits = {
            "restarts.sync_wait_seconds": settings.restarts.sync_wait_seconds + self.delay,
            "bus.lease_seconds": settings.bus.lease_seconds + self.delay,
        }
        return changed(settings, {**self.changes, **waits})


def changed(settings: Settings, changes: Changes) -> Settings:
    """`settings` with values changed, each named `key` or `section.key`.

    Raises:
        UserError: the values are impossible together.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        sections.setdefault(section, {})[key] = value
    update = sections.pop("", {})
    for section, values in sections.items():
        update[section] = getattr(settings, section).model_copy(update=values)
    return load(settings.model_copy(update=update).model_dump(), "scripts/compare")


def named(name: str) -> Arm:
    """The arm `name`.

    Raises:
        ValueError: there is none.
    """
    if several := re.fullmatch(r"plain-(\d)", name):
        starts = int(several[1])
        if 2 <= starts <= MOST_STARTS:
            return Arm(name, {}, starts=starts)
    if name not in ARMS:
        raise ValueError(f"no arm {name!r}; arms are {', '.join(ARMS)}, and plain-2 to plain-{MOST_STARTS}")
    return Arm(name, ARMS[name])


def with_delays(arm: Arm, delays: list[int]) -> list[Arm]:
    """The arm once for each delay of its LLM; the arm itself where it has none."""
    if not arm.asks:
        return [arm]
    return [Arm(f"{arm.name}-{delay}s" if delay else arm.name, arm.changes, delay) for delay in delays]


def rates(values: list[float]) -> list[Arm]:
    """Plain tuning at each learning rate of `values`."""
    return [Arm(f"plain-lr{value:g}", {"restarts.policy": "none", "optimizer.lr": value}) for value in values]


def _several_starts(starts: int, settings: Settings) -> Changes:
    """Challengers from random starts, opened before the first step and judged when the budget is used up."""
    if settings.epochs is not None:
        raise UserError(f"plain-{starts} needs a budget in lane-steps, and the recipe sets epochs; add --steps")
    return {
        "restarts.policy": "trial",
        "restarts.source": "random" if settings.prompt.init == "random" else "vocabulary",
        "restarts.mode": "sync",  # the only mode that opens challengers before the first step
        "restarts.candidates": starts - 1,
        "restarts.max_challengers": starts - 1,
        "restarts.queue_size": starts - 1,
        "restarts.patience": 0,
        "restarts.epochs": [],
        "restarts.request_every": settings.steps,
        "restarts.trial_steps": settings.steps // starts,
    }
