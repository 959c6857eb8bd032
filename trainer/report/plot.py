"""Geometry of the report's charts; templates/chart.html draws it as SVG."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, floor, isfinite, log10
from typing import Literal

from shared.subsampling import subsample

Style = Literal["adopted", "dropped", "trying", "baseline"]
Scale = Callable[[float], float]
"""Lane-steps or a loss to pixels."""

MOST_POINTS = 160
"""Points drawn of one line."""


@dataclass(frozen=True)
class Dot:
    """A value that was measured."""

    step: float
    value: float
    """NaN and infinities are gaps."""
    title: str = ""


@dataclass(frozen=True)
class Series:
    """A line of the chart."""

    style: Style
    dots: Sequence[Dot]


@dataclass(frozen=True)
class Span:
    """A stretch of the axis: from a digest to its answer."""

    begin: float
    end: float
    title: str


@dataclass(frozen=True)
class Drawn:
    """A line in pixels."""

    style: Style
    path: str
    dots: list[tuple[float, float, str]]


@dataclass
class Chart:
    """A chart in pixels, origin at the top left."""

    width: int
    height: int
    label: str
    """What the chart shows, for readers that do not see it."""
    left: int = 52
    right: int = 12
    top: int = 12
    bottom: int = 40
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    lines: list[Drawn] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    bars: list[tuple[float, float, float, str]] = field(default_factory=list)
    """x, y, width and title."""


def line_chart(
    label: str,
    series: Sequence[Series],
    width: int,
    height: int,
    *,
    steps: float,
    values: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    spans: Sequence[Span] = (),
    bare: bool = False,
) -> Chart | None:
    """A chart of lines by lane-steps; None where there is nothing to draw.

    Args:
        label: what it shows.
        series: the lines, drawn in this order.
        width: pixels.
        height: pixels.
        steps: right end of the axis, at least.
        values: range of the vertical axis; default: that of the lines.
        marks: lane-steps with a vertical line, and its title.
        spans: bars under the axis.
        bare: a small multiple, with few ticks.
    """
    low, high = values or value_range(series)
    if not low <= high:
        return None
    end = max([steps, 1.0, *(dot.step for one in series for dot in one.dots), *(span.end for span in spans)])
    rows = _rows(spans)
    chart = Chart(width, height, label)
    chart.bottom += 5 * max(rows, default=-1) + (10 if rows else 0)
    if bare:
        chart.left, chart.right, chart.bottom = 40, 8, 20
    plot_width, plot_height = width - chart.left - chart.right, height - chart.top - chart.bottom
    pad = (high - low) * 0.04 or 0.05
    low, high = low - pad, high + pad

    def x(step: float) -> float:
        return round(chart.left + plot_width * step / end, 1)

    def y(value: float) -> float:
        return round(chart.top + plot_height * (high - value) / (high - low), 1)

    chart.x_ticks = [(x(tick), f"{tick:,.0f}") for tick in ticks(0, end, 3 if bare else max(3, width // 110))]
    chart.y_ticks = [
        (y(tick), text) for tick, text in _labelled(ticks(low, high, 3 if bare else max(3, plot_height // 45)))
    ]
    chart.lines = [_draw(one, x, y, bare) for one in series]
    chart.marks = [(x(step), title) for step, title in marks]
    floor_y = height - chart.bottom + 4
    chart.bars = [
        (x(span.begin), floor_y + 5.0 * row, max(1.5, round(x(span.end) - x(span.begin), 1)), span.title)
        for span, row in zip(spans, rows, strict=True)
    ]
    return chart


def value_range(series: Iterable[Series]) -> tuple[float, float]:
    """Lowest and highest finite value; an empty range where there is none."""
    found = [dot.value for one in series for dot in one.dots if isfinite(dot.value)]
    return (min(found), max(found)) if found else (1.0, 0.0)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most about `most` round numbers from `low` to `high`."""
    span = high - low
    if not (isfinite(span) and span > 1e-9 * max(abs(low), abs(high))):
        return [low] if isfinite(low) else []
    size: float = 10.0 ** floor(log10(span / most))
    size *= next(factor for factor in (1, 2, 5, 10) if span / (size * factor) <= most)
    return [round(number * size, 12) for number in range(ceil(low / size), floor(high / size) + 1)]


def _labelled(values: list[float]) -> list[tuple[float, str]]:
    gap = min((after - before for before, after in pairwise(values)), default=0.1)
    digits = min(6, max(0, -floor(log10(gap * 1.001)))) if gap > 0 else 2
    return [(value, f"{value:.{digits}f}") for value in values]


def _draw(series: Series, x: Scale, y: Scale, bare: bool) -> Drawn:
    path, dots, joined = "", [], False
    for dot in subsample(list(series.dots), MOST_POINTS):
        if isfinite(dot.value):
            path += f"{'L' if joined else 'M'}{x(dot.step):g} {y(dot.value):g}"
            if dot.title and not bare:
                dots.append((x(dot.step), y(dot.value), dot.title))
        joined = isfinite(dot.value)
    return Drawn(series.style, path, dots)


def _rows(spans: Sequence[Span]) -> list[int]:
    """A row for each span, so that those that overlap lie under each other; at most four rows."""
    ends: list[float] = []
    rows = []
    for span in spans:
        free = next((row for row, end in enumerate(ends) if end <= span.begin), len(ends))
        if free == len(ends):
            ends.append(0.0)
        ends[free] = span.end
        rows.append(min(free, 3))
    return rows
