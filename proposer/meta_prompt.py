"""Writes a digest and the outcomes remembered of its run down for an LLM.

The wording is in prompts/*.txt. Fields are substituted once: a field's text is never searched for
fields again. Words from elsewhere are cleaned and cut to one short line each.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Literal

from bus.messages import CandidateOutcome, Digest
from proposer.candidate import key
from shared.subsampling import subsample
from shared.text import clean, cut

Kind = Literal["instruct", "continue"]

MOST_LABELS = 40
MOST_POINTS = 6
MOST_TEMPLATES = 8
"""Small chat models copy what they read; repetitions of what is left out are dropped from the reply."""

MOST_HINTS = 16
HINTS_EACH = 6
"""Words of the gradient for each position that are counted."""

NEAR = 0.5
"""Mean cosine from which the nearest words describe a prompt; of noise it is 0.2 to 0.4."""

OPENINGS = (
    ("this text", "the author", "someone", "they want", "I", "we"),
    ("a person who", "a question", "there is", "people", "my", "here is"),
    ("the writer", "it", "you", "this is", "something", "the topic"),
)
"""Beginnings to choose from, by request and proposer: LLMs that are asked the same answer the same."""

LONGEST_TEMPLATE = 10
"""Words in a template, where the prompt has room for more."""

MOST_ROWS = 4
"""Rows for a small model to continue; with more it copies the bad ones."""

AIM = 0.9
"""The loss requested of it, as a fraction of the best so far."""

FORM = (
    "Answer with the {} templates only, one a line, as a numbered list, without quotes, explanations or anything else."
)
STRUCTURED_FORM = "Answer with the {} templates only, as JSON with the one field `prompts`, a list of strings."
"""The last line of the instructions, without and with a schema for the answer."""

LONGEST_WORDS = 120
LONGEST_TASK = 500


def write(
    kind: Kind, digest: Digest, outcomes: Sequence[CandidateOutcome], *, structured: bool = False, proposer: int = 0
) -> str:
    """The meta-prompt of a kind.

    Args:
        kind: which one.
        digest: the state of the run.
        outcomes: remembered outcomes of the run, the newest last.
        structured: the answer has to fit a schema.
        proposer: which proposer asks; two that get the same digest should ask for other openings.
    """
    if kind == "continue":
        return _write_continue(digest)
    openings = OPENINGS[(digest.sequence - 1 + proposer) % len(OPENINGS)]
    return _write_instruct(digest, outcomes, openings, STRUCTURED_FORM if structured else FORM)


def beginning() -> str:
    """The part of the text to continue that all digests share."""
    return _template("continue").template.partition("$")[0]


def _write_instruct(digest: Digest, outcomes: Sequence[CandidateOutcome], openings: Sequence[str], form: str) -> str:
    findings = (
        _section("Gradient descent: ", _progress(digest), between=""),
        _section("The words nearest to its prompt at some steps, the best last:", _trajectory(digest)),
        _section("Templates that were measured, the best last:", _templates(digest, outcomes)),
        _section("Words that the gradient points to: ", _hints(digest), between=""),
    )
    return _template("instruct").substitute(
        task=_line(digest.task, LONGEST_TASK),
        labels=_labels(digest.labels, ", "),
        findings="".join(findings),
        num_candidates=digest.num_candidates,
        words=min(LONGEST_TEMPLATE, max(1, digest.num_tokens * 3 // 4)),
        openings=", ".join(f'some with "{start}"' for start in openings),
        form=form.format(digest.num_candidates),
    )


def _write_continue(digest: Digest) -> str:
    best = digest.best[:MOST_ROWS]
    rows = [f"Loss: {row.loss:.2f} Phrase: {words} [label]" for row in reversed(best) if (words := _line(row.words))]
    return _template("continue").substitute(
        task=_line(digest.task, LONGEST_TASK),
        labels=_labels(digest.labels, " or "),
        rows="\n".join(rows) or f"Loss: {1 / AIM:.2f} Phrase: a text about [label]",
        target=f"{(best[0].loss if best else 1 / AIM) * AIM:.2f}",
    )


@cache
def _template(name: str) -> Template:
    return Template((files("proposer") / "prompts" / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n"))


def _line(text: str, longest: int = LONGEST_WORDS) -> str:
    return cut(clean(text), longest)


def _section(title: str, text: str, between: str = "\n") -> str:
    return f"\n{title}{between}{text}\n" if text else ""


def _labels(labels: Sequence[str], last: str) -> str:
    shown = [_line(label) for label in labels[:MOST_LABELS]]
    if len(labels) > MOST_LABELS:
        return f"{', '.join(shown)} and {len(labels) - MOST_LABELS} more"
    return last.join(part for part in (", ".join(shown[:-1]), *shown[-1:]) if part)


def _progress(digest: Digest) -> str:
    if digest.slope is None or not digest.trajectory:
        return ""
    best = min(point.dev_loss for point in digest.trajectory)
    state = "on a plateau" if digest.slope.plateau else "still improving"
    return f"step {digest.step} of {digest.budget}, lowest loss {best:.3f}, {state}."


def _trajectory(digest: Digest) -> str:
    """The points that words describe; of the others nothing is worth reading."""
    near = [point for point in digest.trajectory if point.cosine >= NEAR]
    shown = sorted(subsample(near, MOST_POINTS), key=lambda point: -point.dev_loss)
    return "\n".join(f"- {_line(point.words)} (step {point.step}, loss {point.dev_loss:.3f})" for point in shown)


def _templates(digest: Digest, outcomes: Sequence[CandidateOutcome]) -> str:
    """Measured words, the best last, with what training from them brought."""
    gains = {key(outcome.words): outcome.gain for outcome in outcomes}
    losses = {outcome.words: outcome.score for outcome in outcomes if outcome.score is not None}
    losses |= {entry.words: entry.loss for entry in digest.best}
    best = sorted(losses, key=lambda words: losses[words])[:MOST_TEMPLATES]
    rows = [(_line(words), losses[words], gains.get(key(words))) for words in reversed(best)]
    return "\n".join(
        f"- {words} {{label}} (loss {loss:.3f}{'' if gain is None else f', {gain:+.3f} after training'})"
        for words, loss, gain in rows
        if words
    )


def _hints(digest: Digest) -> str:
    """Replacements for several positions, those that most positions share first."""
    counted = Counter(word for push in digest.substitutions for word in push.replacements[:HINTS_EACH])
    words = [word for word, _ in counted.most_common() if len(word) > 2 and word.isalpha()]
    return ", ".join(_line(word) for word in words[:MOST_HINTS])
