"""What a report says of one run, derived from its files."""

import json
import shlex
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, nan
from statistics import median
from typing import Any

from shared.errors import UserError
from shared.settings import Settings
from shared.subsampling import subsample
from trainer.report.events import DigestLeased, OutcomeReached
from trainer.report.history import View
from trainer.report.plot import Chart, Dot, Series, Span, line_chart
from trainer.report.run import Run
from trainer.report.text import setting, visible

NO_VALUE = "\u2013"
MOST_DIGESTS = 12
"""Digests whose pushes are shown, evenly over the run."""
MOST_CANDIDATES = 1_000
MOST_BINS = 60
"""Means drawn of the training losses of one lane."""
NOT_REPEATED = {"recipe", "name", "folder", "device", "threads", "bus", "metrics"}
"""Settings that say where and how a run computes and talks, and not what it finds."""
TRIED_FIRST = (
    "adopted",
    "dropped",
    "unfinished",
    "trying",
    "waiting",
    "outscored",
    "diverged",
    "late",
    "stale",
    "duplicate",
    "empty",
)
OUTCOMES = {
    "adopted": "adopted: replaced the incumbent",
    "dropped": "dropped: lost its trial",
    "unfinished": "unfinished: the budget ended first",
    "trying": "on trial now",
    "waiting": "waiting for a trial",
    "outscored": "outscored: not tried",
    "diverged": "diverged: its loss became NaN or infinite",
    "late": "late: the budget left was too small",
    "stale": "stale: came too late to be tried",
    "duplicate": "duplicate: seen before",
    "empty": "empty: no usable word",
}


@dataclass(frozen=True)
class Tile:
    """One figure with what it is."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Ancestor:
    """A start in the incumbent's line."""

    step: int
    words: str
    source: str
    gain: float | None = None


@dataclass(frozen=True)
class CandidateRow:
    """One candidate with its outcome."""

    words: str
    step: int
    score: float | None
    gain: float | None
    outcome: str
    count: int = 1


def tiles(run: Run) -> list[Tile]:
    """The figures at the top."""
    view, summary = run.view, run.summary
    losses = [event.dev_loss for event in view.evaluations.values() if event.dev_loss is not None]
    finite = [loss for loss in losses if isfinite(loss)]
    best = _get(summary, "dev", "loss") or min(finite, default=None)
    found = [
        Tile("development loss", f"{number(losses[0] if losses else None)} → {number(best)}", "start → best"),
        _test_tile(summary),
        Tile("adopted", f"{len(adopted(view))} of {len(_tried(view))}", "of the candidates tried"),
        Tile("age of an answer", _median_age(view), "lane-steps, median"),
    ]
    seconds = [event.seconds for event in view.proposals.values() if event.seconds is not None]
    tokens = [event.input_tokens for event in view.proposals.values()] + [
        e.output_tokens for e in view.proposals.values()
    ]
    counted = [count for count in tokens if count is not None]
    cost = [event.cost for event in view.proposals.values() if event.cost is not None]
    note = f"{sum(counted):,} tokens" if counted else "tokens not counted"
    found.append(Tile("LLM time", duration(sum(seconds)) if seconds else NO_VALUE, note))
    if cost:
        found.append(Tile("LLM cost", f"{sum(cost):.4g}", "in the currency of the prices set"))
    return found


def _test_tile(summary: dict[str, Any]) -> Tile:
    measure = str(summary.get("measure") or "accuracy")
    score = percent(_get(summary, "test", measure))
    others = summary.get("others")
    plain = next((row for name, row in others.items() if "plain" in name), None) if isinstance(others, dict) else None
    note = f"baseline {percent(_get(plain, 'test', measure))}" if plain else "no baseline"
    return Tile(f"test {visible(measure, 40)}", score, note if summary else "measured at the end")


def results(run: Run) -> list[tuple[str, str, str, str, str]]:
    """Rows of the table of results: name, development loss and accuracy, test loss and measure."""
    summary = run.summary
    if not summary:
        return []
    measure, others = str(summary.get("measure") or "accuracy"), summary.get("others")
    rows = {f"this run, {summary.get('result') or 'result'}": summary}
    rows |= {str(name): row for name, row in others.items()} if isinstance(others, dict) else {}
    return [
        (
            visible(name, 100),
            number(_get(row, "dev", "loss")),
            percent(_get(row, "dev", "accuracy")),
            number(_get(row, "test", "loss")),
            percent(_get(row, "test", measure)),
        )
        for name, row in rows.items()
    ]


def progress(run: Run) -> str:
    """The state in words."""
    state, done, budget = run.state(), run.view.lane_steps, run.budget
    if state == "finished":
        return f"finished, {done:,} lane-steps"
    state_text = {"stopped": "stopped at", "running": "running,", "stale": "stale: no news from it since"}[state]
    return f"{state_text} {done:,} of {budget:,} lane-steps" if budget else f"{state_text} {done:,} lane-steps"


def loss_chart(run: Run, width: int, height: int) -> Chart | None:
    """Development loss by lane-steps, a line a lane."""
    view = run.view
    asked = {event.asked: event for event in view.proposals.values()}
    spans = [
        Span(
            event.asked,
            event.step,
            f"asked at {event.asked}, {visible(event.model, 60)} answered at {event.step}",
        )
        for event in sorted(view.proposals.values(), key=lambda event: event.asked)
    ]
    spans += [
        Span(digest.step, view.lane_steps, f"asked at {digest.step}, not answered")
        for digest in view.digests.values()
        if digest.step not in asked
    ]
    marks = [(event.step, f"adopted at {event.step}: {visible(event.words, 100)}") for event in adopted(view)]
    return line_chart(
        f"Development loss of {visible(run.name, 100)} by lane-steps, a line a lane",
        dev_series(run),
        width,
        height,
        steps=run.budget,
        marks=marks,
        spans=spans,
    )


def dev_series(run: Run) -> list[Series]:
    """Development losses: the baseline, the lanes that were dropped, those on trial, the incumbents."""
    view = run.view
    lanes: dict[int, list[Dot]] = {}
    for trial in view.trials.values():
        if trial.score is not None:
            lanes.setdefault(trial.lane, []).append(
                Dot(trial.step, trial.score, f"starts: {visible(trial.words, 100)}")
            )
    for event in view.evaluations.values():
        for index, lane in enumerate(event.lanes):
            words = event.words if index == 0 else _words(view, lane.lane)
            title = f"lane {lane.lane} at {event.step}: {number(lane.loss)}, {visible(words, 100)}"
            lanes.setdefault(lane.lane, []).append(Dot(event.step, nan if lane.loss is None else lane.loss, title))
    for outcome in _tried(view):
        if outcome.lane is not None and outcome.dev_loss is not None:
            title = f"lane {outcome.lane} judged at {outcome.step}: {number(outcome.dev_loss)}"
            lanes.setdefault(outcome.lane, []).append(Dot(outcome.step, outcome.dev_loss, title))
    kept = _incumbents(view)
    outcomes = {event.lane: event.outcome for event in _tried(view)}
    found = [
        Series("adopted" if lane in kept else "dropped" if lane in outcomes else "trying", sorted(dots, key=_step_of))
        for lane, dots in lanes.items()
    ]
    plain = [Dot(e.step, nan if e.dev_loss is None else e.dev_loss, "") for e in run.baseline.evaluations.values()]
    order = ("baseline", "dropped", "trying", "adopted")
    return sorted([Series("baseline", plain), *found], key=lambda series: order.index(series.style))


def training_chart(run: Run, width: int, height: int) -> Chart | None:
    """Training loss by lane-steps, means over equal stretches, a line a lane."""
    size = max(1, run.view.lane_steps // MOST_BINS)
    kept = _incumbents(run.view)
    series = [
        Series("adopted" if lane in kept else "dropped", _means(steps, losses, size))
        for lane, (steps, losses) in run.view.steps.lanes.items()
    ]
    plain = [Series("baseline", _means(*columns, size)) for columns in run.baseline.steps.lanes.values()]
    label = f"Training loss of {visible(run.name, 100)} by lane-steps, a line a lane"
    return line_chart(
        label, [*plain, *sorted(series, key=lambda one: one.style, reverse=True)], width, height, steps=run.budget
    )


def _means(steps: Any, losses: Any, size: int) -> list[Dot]:
    dots, begin = [], 0
    while begin < len(steps):
        end = bisect_left(steps, steps[begin] + size)
        dots.append(Dot(steps[end - 1], sum(losses[begin:end]) / (end - begin)))
        begin = end
    return dots


def lineage(run: Run) -> list[Ancestor]:
    """The incumbent's starts, oldest first."""
    view = run.view
    prompt = run.config.get("prompt")
    settings: dict[str, Any] = prompt if isinstance(prompt, dict) else {}
    origin = next(iter(run.summary.get("lineage") or []), None)
    given = origin.get("words") if isinstance(origin, dict) else None
    source = str(settings.get("init") or "words")
    first = next(iter(view.evaluations.values()), None)
    words = given or (str(settings.get("words")) if source == "words" else first.words if first else "")
    start = Ancestor(0, visible(words), {"random": "noise, near", "vocabulary": "random words"}.get(source, "start"))
    return [start, *(Ancestor(e.step, visible(e.words), "adopted", e.gain) for e in adopted(view))]


def nearest(run: Run) -> tuple[str, float | None, int] | None:
    """The words nearest to the incumbent at its last evaluation, how near, and when."""
    last = next(reversed(run.view.evaluations.values()), None)
    return (visible(last.words), last.cosine, last.step) if last else None


def members(run: Run) -> list[tuple[int, int, float | None, str]]:
    """What the result is made of: lane, lane-steps, development loss and nearest words."""
    rows = run.summary.get("members")
    return [
        (row.get("lane", 0), row.get("step", 0), _get(row, "dev", "loss"), visible(row.get("words") or ""))
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict)
    ]


def substitutions(run: Run) -> tuple[list[DigestLeased], int]:
    """Digests that say what the gradient asks for, and of how many."""
    found = [digest for digest in run.view.digests.values() if digest.substitutions]
    return subsample(found, MOST_DIGESTS), len(found)


def candidates(run: Run) -> list[CandidateRow]:
    """Every candidate, those that were tried first, then by score; the same text once, with a count."""
    view, counts = run.view, Counter[tuple[str, str]]()
    rows: dict[tuple[str, str], CandidateRow] = {}
    ended = set()
    for outcome in view.outcomes.values():
        key = outcome.words, outcome.outcome
        counts[key] += 1
        rows[key] = CandidateRow(visible(outcome.words), outcome.step, outcome.score, outcome.gain, outcome.outcome)
        if outcome.outcome not in ("duplicate", "empty"):
            ended.add(outcome.words)
    on_trial = {trial.words for trial in view.trials.values()}
    for one in view.scored:
        if one.words not in ended:
            state = "trying" if one.words in on_trial else "waiting"
            rows[one.words, state] = CandidateRow(visible(one.words), one.asked, one.score, None, state)
            counts[one.words, state] = 1
    found = [CandidateRow(*_fields(row), counts[key]) for key, row in rows.items()]
    return sorted(found, key=lambda row: (TRIED_FIRST.index(row.outcome), -(row.gain or 0), _or_last(row.score)))


def _fields(row: CandidateRow) -> tuple[str, int, float | None, float | None, str]:
    return row.words, row.step, row.score, row.gain, row.outcome


def costs(run: Run) -> list[tuple[str, str]]:
    """What the run cost, row by row."""
    view = run.view
    seconds = [event.seconds for event in view.proposals.values() if event.seconds is not None]
    dropped = [event.lane for event in _tried(view) if event.outcome != "adopted" and event.lane is not None]
    wasted = sum(len(view.steps.lanes[lane][0]) for lane in dropped if lane in view.steps.lanes)
    scoring = [event.seconds for event in view.scorings.values() if event.seconds is not None]
    elapsed, bus = sum(view.steps.seconds), sum(view.steps.bus_seconds)
    answers = len(view.proposals)
    by_model = Counter(visible(event.model, 80) for event in view.proposals.values())
    input_tokens = sum(event.input_tokens or 0 for event in view.proposals.values())
    output_tokens = sum(event.output_tokens or 0 for event in view.proposals.values())
    models = ", ".join(f"{model or 'unnamed'} ({count})" for model, count in by_model.items())
    leases = sum(max(1, len(digest.leases)) for digest in view.digests.values())
    share = f" of {view.lane_steps:,} ({wasted / view.lane_steps:.0%})" if view.lane_steps else ""
    return [
        ("answers", f"{answers} to {counted(leases, 'request')}" + (f": {models}" if models else "")),
        ("LLM time", f"{duration(sum(seconds))} in {counted(len(seconds), 'answer')}" if seconds else "not recorded"),
        ("tokens", f"{input_tokens:,} in, {output_tokens:,} out" if input_tokens or output_tokens else "not counted"),
        ("lane-steps on lanes that were not adopted", f"{wasted:,}{share}"),
        ("scoring", counted(len(view.scored), "candidate") + (f" in {duration(sum(scoring))}" if scoring else "")),
        ("training time", duration(elapsed) if elapsed else "not recorded"),
        ("bus and restarts, scoring included", f"{bus / elapsed:.1%} of the training time" if elapsed else NO_VALUE),
    ]


def settings_rows(run: Run) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Settings that differ from the defaults, and the others."""
    defaults = dict(flat(Settings.model_construct().model_dump()))
    changed: list[tuple[str, str]] = []
    rest: list[tuple[str, str]] = []
    for name, value in flat(run.config):
        row = visible(name, 100), setting(name, value)
        (rest if name in defaults and defaults[name] == value else changed).append(row)
    return changed, rest


def command(run: Run) -> str:
    """What makes the same run again, up to the answers of an LLM."""
    recipe = str(run.config.get("recipe") or run.summary.get("recipe") or "demo")
    try:
        base = dict(flat(Settings(recipe=recipe).model_dump()))
    except UserError:
        base = dict(flat(Settings.model_construct().model_dump()))
    words = ["python", "-m", "trainer", recipe]
    for name, value in flat(run.config):
        if name.split(".")[0] in NOT_REPEATED or value == base.get(name, value):
            continue
        shown = setting(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        words += [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", shown]
    return visible(" ".join(shlex.quote(word) for word in words))


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name; `task.labels` is one value."""
    for name, value in values.items():
        if isinstance(value, dict) and name != "labels":
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), value


def number(value: Any, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) and isfinite(value) else NO_VALUE


def signed(value: Any) -> str:
    """A number with its sign, or a dash."""
    return f"{value:+.3f}" if isinstance(value, int | float) and isfinite(value) else NO_VALUE


def percent(value: Any) -> str:
    """A share in percent, or a dash."""
    return f"{value:.1%}" if isinstance(value, int | float) and isfinite(value) else NO_VALUE


def duration(seconds: float) -> str:
    """Seconds in the unit that people would use."""
    if not isfinite(seconds):
        return NO_VALUE
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def adopted_of_tried(run: Run) -> tuple[int, int]:
    """Candidates adopted, and tried."""
    return len(adopted(run.view)), len(_tried(run.view))


def _tried(view: View) -> list[OutcomeReached]:
    """Outcomes of candidates that a lane tried, oldest first."""
    return [event for event in view.outcomes.values() if event.lane is not None]


def adopted(view: View) -> list[OutcomeReached]:
    """Outcomes of candidates that replaced the incumbent, oldest first."""
    return [event for event in view.outcomes.values() if event.outcome == "adopted"]


def _incumbents(view: View) -> set[int]:
    """Lanes that are or were the incumbent."""
    first = next((event.lanes[0].lane for event in view.evaluations.values() if event.lanes), 0)
    return {first, *(event.lane for event in adopted(view) if event.lane is not None)}


def _words(view: View, lane: int) -> str:
    trial = view.trials.get(lane)
    return trial.words if trial else ""


def _median_age(view: View) -> str:
    ages = [max(0, event.step - event.asked) for event in view.proposals.values()]
    return f"{median(ages):g}" if ages else NO_VALUE


def _step_of(dot: Dot) -> float:
    return dot.step


def _or_last(score: float | None) -> float:
    return score if score is not None and isfinite(score) else float("inf")


def _get(values: Any, *path: str) -> Any:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values
