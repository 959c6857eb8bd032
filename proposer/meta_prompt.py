"""A digest and what is remembered of its run, written down for an LLM.

The wording is in prompts/*.txt. A field is put into it once, as it is: what stands in a field is
never looked at for fields again. Words that came from elsewhere are cleaned to one short line each.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Literal

from bus.messages import Digest, Fate, Measured, Point, Push, Slope
from shared.subsampling import subsample
from shared.text import clean, cut

Kind = Literal["instruct", "continue"]

MOST_LABELS = 40
MOST_POINTS = 12
MOST_PUSHES = 16
MOST_TOWARD = 6
MOST_BEST = 12
MOST_FATES = 20

MOST_ROWS = 4
"""Rows that a small model continues; with more it copies the bad ones."""

AIM = 0.9
"""The loss it is asked for, as a part of the best so far."""

LONGEST_WORDS = 120
LONGEST_TASK = 500


def write(kind: Kind, digest: Digest, fates: Sequence[Fate]) -> str:
    """The meta-prompt of a kind; `fates` are the outcomes remembered of the run, the newest last."""
    return _write_instruct(digest, fates) if kind == "instruct" else _write_continue(digest)


def beginning() -> str:
    """The part of the text to continue that is the same for every digest."""
    return _template("continue").template.partition("$")[0]


def _write_instruct(digest: Digest, fates: Sequence[Fate]) -> str:
    return _template("instruct").substitute(
        task=_line(digest.task, LONGEST_TASK),
        labels=_labels(digest.labels, ", "),
        trajectory=_lines(_point(point) for point in _worst_first(subsample(digest.trajectory, MOST_POINTS))),
        pushes=_lines(_push(push) for push in digest.pushes[:MOST_PUSHES]),
        slope=_slope(digest),
        best=_lines(_measured(measured) for measured in reversed(digest.best[:MOST_BEST])),
        fates=_lines(_fate(fate) for fate in fates[-MOST_FATES:]),
        wanted=digest.wanted,
        tokens=digest.tokens,
    )


def _write_continue(digest: Digest) -> str:
    best = digest.best[:MOST_ROWS]
    rows = "\n".join(f"Loss: {row.loss:.2f} Phrase: {_line(row.words)}" for row in reversed(best) if _line(row.words))
    return _template("continue").substitute(
        task=_line(digest.task, LONGEST_TASK),
        labels=_labels(digest.labels, " or "),
        rows=rows or f"Loss: {1 / AIM:.2f} Phrase: a text about",
        target=f"{(best[0].loss if best else 1 / AIM) * AIM:.2f}",
    )


@cache
def _template(name: str) -> Template:
    return Template((files("proposer") / "prompts" / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n"))


def _line(text: str, longest: int = LONGEST_WORDS) -> str:
    return cut(clean(text), longest)


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines) or "nothing yet"


def _labels(labels: Sequence[str], last: str) -> str:
    shown = [_line(label) for label in labels[:MOST_LABELS]]
    if len(labels) > MOST_LABELS:
        return f"{', '.join(shown)} and {len(labels) - MOST_LABELS} more"
    return last.join(part for part in (", ".join(shown[:-1]), *shown[-1:]) if part)


def _worst_first(points: list[Point]) -> list[Point]:
    return sorted(points, key=lambda point: -point.dev_loss)


def _point(point: Point) -> str:
    return (
        f"- step {point.step}: {_line(point.words)} (loss {point.dev_loss:.3f}, accuracy {point.dev_accuracy:.0%}, "
        f"nearness of the words {point.nearness:.2f})"
    )


def _push(push: Push) -> str:
    toward = ", ".join(_line(word) for word in push.toward[:MOST_TOWARD])
    return f"- position {push.position + 1}, now near {_line(push.word)}: toward {toward}"


def _slope(digest: Digest) -> str:
    slope: Slope | None = digest.slope
    if slope is None:
        return f"it has not begun; it has {digest.budget} steps."
    state = "it has come to a plateau" if slope.plateau else "it still improves"
    return (
        f"after {digest.step} of {digest.budget} steps {state}; the training loss changes by "
        f"{slope.loss_per_step:+.5f} a step, the gradient's norm is {slope.gradient_norm:.3g}."
    )


def _measured(measured: Measured) -> str:
    return f"- {_line(measured.words)} (loss {measured.loss:.3f}, accuracy {measured.accuracy:.0%})"


def _fate(fate: Fate) -> str:
    said = {
        "adopted": "adopted: after training it beat the prompt of the gradients",
        "dropped": "dropped: after training it was no better",
        "outscored": "not tried: others measured better",
        "duplicate": "a repetition",
        "empty": "not usable",
        "late": "came too late",
        "diverged": "made the loss infinite",
        "unfinished": "still in training when the run ended",
    }[fate.fate]
    numbers = [
        f"loss {fate.score:.3f}" if fate.score is not None else "",
        f"gain {fate.gain:+.3f}" if fate.gain is not None else "",
    ]
    told = ", ".join(number for number in numbers if number)
    return f"- {_line(fate.words)}: {said}{f' ({told})' if told else ''}"
