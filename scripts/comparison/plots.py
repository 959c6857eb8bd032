"""Plots: curves of the development loss, and a forest of paired differences, as PNG and PDF."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")  # files only; no display is needed

from matplotlib import pyplot as plt

from scripts.comparison.results import ArmResults, ConditionResults, Point
from scripts.comparison.statistics import bootstrap
from trainer.report.comparison import interval

COLOURS = ("#555555", "#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f3fbf")
"""Okabe and Ito's, which colour-blind readers can distinguish; plain tuning is grey."""
STYLES = ("-", "--", "-.", ":")
GRID = 200
"""Points at which curves are averaged."""
FORMATS = ("png", "pdf")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.dpi": 150,
    "pdf.fonttype": 42,
}


def curves(results: ConditionResults, path: Path) -> None:
    """Write the lowest development loss so far, by lane-steps and by seconds, to `path` with each of `FORMATS`.

    A line is the mean over seeds, its band the standard error of the mean.
    """
    axes_of: list[tuple[str, Callable[[Point], float]]] = [
        ("lane-steps", lambda point: point.lane_steps),
        ("seconds of training", lambda point: point.seconds),
    ]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
        for axis, (label, place) in zip(axes, axes_of, strict=True):
            for number, arm in enumerate(results.arms):
                _curve(axis, arm, place, number)
            axis.set_xlabel(label)
            axis.set_xlim(left=0)
        axes[0].set_ylabel("lowest development loss so far")
        axes[0].set_title(f"{results.name}, mean of {len(results.plain.outcomes)} seeds ± standard error")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
        _save(figure, path)


def _curve(axis: Any, arm: ArmResults, place: Callable[[Point], float], number: int) -> None:
    lines = [[(place(point), point.dev_loss) for point in one.points] for one in arm.outcomes.values()]
    lines = [[(x, y) for x, y in line if np.isfinite(y)] for line in lines]
    lines = [line for line in lines if line]
    if not lines:
        return
    begin, end = max(line[0][0] for line in lines), min(line[-1][0] for line in lines)
    grid = np.linspace(begin, end, GRID)
    values = np.array([np.interp(grid, [x for x, _ in line], [y for _, y in line]) for line in lines])
    colour = COLOURS[number % len(COLOURS)]
    axis.plot(grid, values.mean(0), color=colour, linestyle=STYLES[number % len(STYLES)], label=arm.name, linewidth=1.6)
    if len(lines) > 1:
        errors = values.std(0, ddof=1) / len(values) ** 0.5
        axis.fill_between(grid, values.mean(0) - errors, values.mean(0) + errors, color=colour, alpha=0.15, linewidth=0)


def forest(rows: Sequence[tuple[str, Sequence[float]]], title: str, path: Path) -> None:
    """Write paired differences, a row each of a name and a value a seed, to `path` with each of `FORMATS`."""
    with mpl.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7, 1.4 + 0.42 * len(rows)), layout="constrained")
        for place, (_, values) in enumerate(rows):
            _row(axis, place, values, place == 0)
        axis.axvline(0, color="#888888", linewidth=0.8, zorder=0)
        axis.set_yticks(range(len(rows)), [name for name, _ in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_xlabel("difference on test, points")
        axis.set_title(title)
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        _save(figure, path)


def _row(axis: Any, place: int, values: Sequence[float], labelled: bool) -> None:
    def label(text: str) -> str | None:
        return text if labelled else None

    found = interval(values)
    assert found is not None
    axis.plot(
        values, [place + 0.2] * len(values), "o", color="#0072b2", alpha=0.45, markersize=3.5, label=label("a seed")
    )
    if found.half is not None:
        axis.plot(
            bootstrap(values), [place - 0.18] * 2, color="#e69f00", linewidth=1.4, label=label("bootstrap (too narrow)")
        )
        axis.plot([found.low, found.high], [place] * 2, color="#000000", linewidth=2.2, label=label("95 % t interval"))
    axis.plot([found.mean], [place], "D", color="#000000", markersize=5, label=label("mean"))


def _save(figure: Any, path: Path) -> None:
    for form in FORMATS:
        figure.savefig(path.with_suffix(f".{form}"))
    plt.close(figure)
