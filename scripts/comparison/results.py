"""Results: what finished runs found and cost, and what an arm's runs say together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from scripts.comparison.arms import BEST, PLAIN, VOCABULARY
from scripts.comparison.runs import PlannedRun
from trainer.report.run import Run
from trainer.runs.directory import SUMMARY, read_json


@dataclass(frozen=True)
class Point:
    """The lowest development loss of a run so far, of any lane."""

    lane_steps: int
    seconds: float
    """Training time."""
    dev_loss: float


@dataclass(frozen=True)
class Outcome:
    """One finished run."""

    arm: str
    seed: int
    path: Path
    summary: dict[str, Any]
    """Of `summary.json`."""
    points: list[Point]
    """In order."""
    input_tokens: int
    output_tokens: int
    llm_seconds: float

    @property
    def measure(self) -> str:
        """What the task is measured by."""
        return str(self.summary["measure"])

    @property
    def test(self) -> float:
        """On test, in percent."""
        return 100 * float(self.summary["test"][self.measure])

    @property
    def majority(self) -> float:
        """Of always the same class on test, in percent."""
        return 100 * float(self.summary["majority"][self.measure])

    @property
    def dev_loss(self) -> float:
        """Of the result; infinite where it is not a number."""
        loss = float(self.summary["dev"]["loss"])
        return loss if isfinite(loss) else inf

    @property
    def dev_accuracy(self) -> float:
        """Of the result, in percent."""
        return 100 * float(self.summary["dev"]["accuracy"])

    @property
    def seconds(self) -> float:
        """Training time."""
        return float(self.summary["seconds"])

    @property
    def scoring(self) -> float:
        """What scoring candidates cost, in lane-steps."""
        return float(self.summary["scoring_lane_steps"])

    @property
    def scored(self) -> int:
        """Candidates measured."""
        return int(self.summary["proposals"]["scored"])

    @property
    def adopted(self) -> int:
        """Candidates that became the incumbent."""
        return int(self.summary["proposals"]["adopted"])

    def reaches(self, dev_loss: float) -> Point | None:
        """The first evaluation with at most this development loss."""
        return next((point for point in self.points if point.dev_loss <= dev_loss), None)


@dataclass(frozen=True)
class ArmResults:
    """The runs of one arm."""

    name: str
    outcomes: dict[int, Outcome]
    """By seed."""

    @cached_property
    def tests(self) -> list[float]:
        """On test, in percent, by seed."""
        return [outcome.test for outcome in self.outcomes.values()]

    def differences(self, reference: "ArmResults") -> list[float]:
        """Points on test above `reference`, by seed."""
        return [outcome.test - reference.outcomes[seed].test for seed, outcome in self.outcomes.items()]

    def reached(self, plain: "ArmResults") -> list[Point]:
        """Where each run has the development loss that plain tuning of its seed ends with, if it does."""
        found = [
            outcome.reaches(min(point.dev_loss for point in plain.outcomes[seed].points))
            for seed, outcome in self.outcomes.items()
        ]
        return [point for point in found if point]

    @property
    def at_majority(self) -> int:
        """Runs that are not above always the same class."""
        return sum(outcome.test <= outcome.majority for outcome in self.outcomes.values())

    @property
    def candidates_per_adoption(self) -> float | None:
        """Candidates measured for each adopted; None without adoptions."""
        adopted = sum(outcome.adopted for outcome in self.outcomes.values())
        return sum(outcome.scored for outcome in self.outcomes.values()) / adopted if adopted else None

    def mean(self, name: str) -> float:
        """The mean of one of the properties of `Outcome`."""
        return fmean(getattr(outcome, name) for outcome in self.outcomes.values())


@dataclass(frozen=True)
class ConditionResults:
    """The arms of one condition."""

    name: str
    arms: list[ArmResults]
    """Those that tables show, plain tuning first."""
    rates: list[ArmResults]
    """Plain tuning by learning rate; what `plain-best` is chosen from."""

    @property
    def plain(self) -> ArmResults:
        """Plain tuning at the recipe's learning rate."""
        return next(arm for arm in self.arms if arm.name == PLAIN)

    @property
    def reference(self) -> ArmResults:
        """What arms are compared with: plain tuning at its best learning rate, where rates were tried."""
        return self.arm(BEST) or self.plain

    @property
    def vocabulary(self) -> ArmResults | None:
        """The control, where it was run."""
        return self.arm(VOCABULARY)

    def arm(self, name: str) -> ArmResults | None:
        """The arm `name`, where it was run."""
        return next((arm for arm in self.arms if arm.name == name), None)


def read(runs: Sequence[PlannedRun], rate_names: Sequence[str]) -> ConditionResults:
    """The results of a condition's finished runs; those named in `rate_names` go into `plain-best` alone."""
    arms: dict[str, dict[int, Outcome]] = {}
    for run in runs:
        arms.setdefault(run.arm.name, {})[run.seed] = outcome(run.arm.name, run.seed, run.path)
    found = {name: ArmResults(name, outcomes) for name, outcomes in arms.items()}
    rates = [found.pop(name) for name in rate_names if name in found]
    shown = [found.pop(PLAIN)]
    if rates:
        shown.append(best_rate([shown[0], *rates]))
    return ConditionResults(runs[0].condition, [*shown, *found.values()], rates)


def best_rate(rates: Sequence[ArmResults]) -> ArmResults:
    """By seed the run with the lowest development loss; test figures decide nothing."""
    return ArmResults(
        BEST,
        {
            seed: min((rate.outcomes[seed] for rate in rates), key=lambda one: one.dev_loss)
            for seed in rates[0].outcomes
        },
    )


def outcome(arm: str, seed: int, path: Path) -> Outcome:
    """The finished run at `path`."""
    view = Run(path).view
    points: list[Point] = []
    best = inf
    for step, evaluation in sorted(view.evaluations.items()):
        losses = [evaluation.dev_loss, *(lane.loss for lane in evaluation.lanes)]
        best = min([best, *(loss for loss in losses if loss is not None and isfinite(loss))])
        points.append(Point(step, evaluation.seconds or 0.0, best))
    answers = view.proposals.values()
    return Outcome(
        arm=arm,
        seed=seed,
        path=path,
        summary=read_json(path / SUMMARY),
        points=points,
        input_tokens=sum(answer.input_tokens or 0 for answer in answers),
        output_tokens=sum(answer.output_tokens or 0 for answer in answers),
        llm_seconds=sum(answer.seconds or 0.0 for answer in answers),
    )
