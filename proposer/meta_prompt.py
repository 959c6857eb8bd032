"""Writes a digest and the outcomes remembered of its run down for an LLM.

The wording is in prompts/*.txt. Fields are substituted once: a field's text is never searched for
fields again. Words from elsewhere are cleaned and cut to one short line each.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Literal

from bus.messages import CandidateOutcome, Digest, Measured, Point, Slope, Substitution
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
"""Rows for a small model to continue; with more it copies the bad ones."""

AIM = 0.9
"""The loss requested of it, as a fraction of the best so far."""

FORM = "Answer with the {} prompts only, one a line, as a numbered list, without quotes, explanations or anything else."
STRUCTURED_FORM = "Answer with the {} prompts only, as JSON with the one field `prompts`, a list of strings."
"""The last line of the instructions, without and with a schema for the answer."""

LONGEST_WORDS = 120
LONGEST_TASK = 500


def write(kind: Kind, digest: Digest, outcomes: Sequence[CandidateOutcome], *, structured: bool = False) -> str:
    """The meta-prompt of a kind.

    Args:
        kind: which one.
        digest: the state of the run.
        outcomes: remembered outcomes of the run, the newest last.
        structured: the answer has to fit a schema.
    """
    form = STRUCTURED_FORM if structured else FORM
    return _write_instruct(digest, outcomes, form) if kind == "instruct" else _write_continue(digest)


def beginning() -> str:
    """The part of the text to continue that all digests share."""
    return _template("continue").template.partition("$")[0]


def _write_instruct(digest: Digest, outcomes: Sequence[CandidateOutcome], form: str) -> str:
    return _template("instruct").substitute(
        task=_line(digest.task, LONGEST_TASK),
        labels=_labels(digest.labels, ", "),
        trajectory=_lines(_point(point) for point in _worst_first(subsample(digest.trajectory, MOST_POINTS))),
        substitutions=_lines(_push(push) for push in digest.substitutions[:MOST_PUSHES]),
        slope=_slope(digest),
        best=_lines(_measured(measured) for measured in reversed(digest.best[:MOST_BEST])),
        outcomes=_lines(_outcome(outcome) for outcome in outcomes[-MOST_FATES:]),
        num_candidates=digest.num_candidates,
        tokens=digest.num_tokens,
        form=form.format(digest.num_candidates),
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
        f"nearness of the words {point.cosine:.2f})"
    )


def _push(push: Substitution) -> str:
    replacements = ", ".join(_line(word) for word in push.replacements[:MOST_TOWARD])
    return f"- position {push.position + 1}, now near {_line(push.word)}: toward {replacements}"


def _slope(digest: Digest) -> str:
    slope: Slope | None = digest.slope
    if slope is None:
        return f"not begun; {digest.budget} steps are planned."
    state = "it is on a plateau" if slope.plateau else "it still improves"
    return (
        f"after {digest.step} of {digest.budget} steps {state}; the training loss changes by "
        f"{slope.loss_per_step:+.5f} per step, the gradient's norm is {slope.gradient_norm:.3g}."
    )


def _measured(measured: Measured) -> str:
    return f"- {_line(measured.words)} (loss {measured.loss:.3f}, accuracy {measured.accuracy:.0%})"


def _outcome(outcome: CandidateOutcome) -> str:
    said = {
        "adopted": "adopted: after training it was better than the current prompt",
        "dropped": "dropped: after training it was not better than the current prompt",
        "outscored": "not tried: others measured better",
        "duplicate": "a repetition",
        "empty": "not usable",
        "late": "came too late",
        "diverged": "made the loss infinite",
        "unfinished": "still in training when the run ended",
    }[outcome.outcome]
    numbers = [
        f"loss {outcome.score:.3f}" if outcome.score is not None else "",
        f"gain {outcome.gain:+.3f}" if outcome.gain is not None else "",
    ]
    details = ", ".join(number for number in numbers if number)
    return f"- {_line(outcome.words)}: {said}{f' ({details})' if details else ''}"
