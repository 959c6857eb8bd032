"""Several runs side by side: arms, seeds, intervals and paired differences."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import mean, stdev

from trainer.report import facts
from trainer.report.plot import Chart, line_chart, ticks, value_range
from trainer.report.run import Run
from trainer.report.text import visible

T95: tuple[float, ...] = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)
T95 += (2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)
"""97.5 percent points of Student's t for 1 to 30 degrees of freedom."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 percent t interval."""

    mean: float
    half: float | None
    """None for a single value."""
    count: int

    @property
    def low(self) -> float:
        """Lower end; the mean where there is a single value."""
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        """Upper end; the mean where there is a single value."""
        return self.mean + (self.half or 0.0)


@dataclass(frozen=True)
class Arm:
    """Runs of one recipe that differ in their seed alone."""

    recipe: str
    name: str
    runs: dict[int, Run]
    """By seed."""
    scores: dict[int, float]
    """What the task is measured by on test, in percent, by seed; finished runs alone."""
    measure: str
    differences: dict[int, float]
    """To the first arm of the recipe, by seed, over the seeds that both have."""
    total: Interval | None
    difference: Interval | None


@dataclass(frozen=True)
class Row:
    """One arm of the interval chart, in pixels."""

    y: int
    name: str
    low: float
    high: float
    mean: float
    dots: list[tuple[float, str]]


@dataclass(frozen=True)
class Forest:
    """A row an arm: its interval, and a dot a seed."""

    width: int
    height: int
    label: str
    rows: list[Row]
    ticks: list[tuple[float, str]]
    zero: float | None
    """Where a difference of zero is; None where it is not a chart of differences."""


def interval(values: Sequence[float]) -> Interval | None:
    """The mean of `values` with Student's 95 percent interval; None without values."""
    if not values:
        return None
    if len(values) == 1:
        return Interval(values[0], None, 1)
    degrees = len(values) - 1
    quantile = T95[degrees - 1] if degrees <= len(T95) else 1.96 + 2.5 / degrees
    return Interval(mean(values), quantile * stdev(values) / sqrt(len(values)), len(values))


def arms(runs: Sequence[Run]) -> list[Arm]:
    """Runs by recipe and arm; plain prompt tuning first, since the others are compared with it.

    Of several arms of plain tuning, the one that is named so.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((_recipe(run), _arm(run)), []).append(run)
    found: list[Arm] = []
    reference: dict[str, dict[int, float]] = {}
    for (recipe, name), members in sorted(groups.items(), key=lambda item: _rank(item[0][0], item[0][1], item[1][0])):
        by_seed: dict[int, Run] = {}
        for run in members:
            seed = _seed(run)
            while seed in by_seed:  # the same seed again, of a run with another name
                seed += 1_000_000
            by_seed[seed] = run
        scores = {seed: score for seed, run in by_seed.items() if (score := _score(run)) is not None}
        plain = reference.setdefault(recipe, scores)
        paired = {seed: scores[seed] - plain[seed] for seed in scores if seed in plain} if plain is not scores else {}
        measure = next((str(run.summary.get("measure")) for run in members if run.summary), "accuracy")
        found.append(
            Arm(
                visible(recipe),
                visible(name),
                dict(sorted(by_seed.items())),
                scores,
                visible(measure),
                paired,
                interval(list(scores.values())),
                interval(list(paired.values())),
            )
        )
    return found


def scores_chart(rows: Sequence[Arm], width: int) -> Forest | None:
    """The arms' test scores; None before any run is finished."""
    scored = [(arm.name, arm.total, arm.scores) for arm in rows if arm.total]
    label = "Test {} in percent: mean with 95 percent interval, a dot a seed"
    return _forest(label, rows, scored, width, is_difference=False)


def differences_chart(rows: Sequence[Arm], width: int) -> Forest | None:
    """The arms' differences to the first one; None where no seed has both."""
    paired = [(arm.name, arm.difference, arm.differences) for arm in rows if arm.difference]
    label = "Test {} minus that of the first arm, in points, seed by seed"
    return _forest(label, rows, paired, width, is_difference=True)


def _forest(
    label: str,
    rows: Sequence[Arm],
    scored: Sequence[tuple[str, Interval, dict[int, float]]],
    width: int,
    *,
    is_difference: bool,
) -> Forest | None:
    if not scored:
        return None
    left, right, step = min(170, width // 3), 16, 30
    low = min(min(total.low, *values.values()) for _, total, values in scored)
    high = max(max(total.high, *values.values()) for _, total, values in scored)
    if is_difference:
        low, high = min(low, 0.0), max(high, 0.0)
    pad = (high - low) * 0.05 or 1.0
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return round(left + (width - left - right) * (value - low) / (high - low), 1)

    def written(value: float) -> str:
        return f"{value:+.1f}" if is_difference else f"{value:.1f}%"

    drawn = [
        Row(
            24 + step * index,
            name,
            x(total.low),
            x(total.high),
            x(total.mean),
            [(x(value), f"seed {seed % 1_000_000}: {written(value)}") for seed, value in values.items()],
        )
        for index, (name, total, values) in enumerate(scored)
    ]
    marks = [(x(tick), f"{tick:g}") for tick in ticks(low, high, max(5, width // 120))]
    zero = x(0.0) if is_difference else None
    return Forest(width, 24 + step * len(drawn) + 18, label.format(rows[0].measure), drawn, marks, zero)


def multiples(runs: Sequence[Run]) -> list[tuple[str, Chart]]:
    """The development loss of each run, all on the same axes."""
    series = {run.name: (run, facts.dev_series(run)) for run in runs}
    low, high = value_range([line for _, lines in series.values() for line in lines if line.style != "dropped"])
    steps = max((max(run.budget, run.view.lane_steps) for run in runs), default=1)
    charts = []
    for run, lines in series.values():
        within = [line for line in lines if line.style != "dropped"]
        chart = line_chart(
            f"Development loss of {visible(run.name, 60)}", within, 200, 120, steps=steps, values=(low, high), bare=True
        )
        if chart:
            charts.append((visible(run.name, 60), chart))
    return charts


def _recipe(run: Run) -> str:
    return str(run.config.get("recipe") or run.summary.get("recipe") or run.path.parent.name)


def _restarts(run: Run) -> tuple[str, str]:
    section = run.config.get("restarts")
    values = section if isinstance(section, dict) else run.summary
    return str(values.get("policy")), str(values.get("source"))


def _rank(recipe: str, arm: str, run: Run) -> tuple[str, bool, bool]:
    return recipe, _restarts(run)[0] != "none", arm != "plain"


def _arm(run: Run) -> str:
    """As scripts/compare names it, ARM-sSEED; else by the settings."""
    named = re.fullmatch(r"(.+)-s\d+(-\d+)?", run.name)
    if named and named[1] != _recipe(run):
        return named[1]
    policy, source = _restarts(run)
    return "plain prompt tuning" if policy == "none" else {"bus": "LLM"}.get(source, source)


def _seed(run: Run) -> int:
    seed = run.config.get("seed", run.summary.get("seed"))
    return seed if isinstance(seed, int) else 0


def _score(run: Run) -> float | None:
    test, measure = run.summary.get("test"), run.summary.get("measure")
    score = test.get(measure) if isinstance(test, dict) else None
    return 100 * score if isinstance(score, int | float) and isfinite(score) else None
