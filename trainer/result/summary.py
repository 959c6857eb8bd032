"""What is left of a run: `summary.json` and the lines at the end."""

from dataclasses import asdict, dataclass
from typing import Any

from shared.settings import Settings
from trainer.backbones.vocabulary import Vocabulary
from trainer.runs.directory import RunDirectory
from trainer.search.evaluation import EvalResult
from trainer.search.pool import Result, Snapshot
from trainer.search.state import State


@dataclass(frozen=True)
class PromptScores:
    """One prompt's development and test fitness."""

    name: str
    dev: EvalResult
    test: EvalResult
    scores: dict[str, float]
    """What the task is measured by on test, from 0 to 1; the first is the one that counts."""

    def as_json(self) -> dict[str, Any]:
        """Development and test figures by name."""
        return {"dev": asdict(self.dev), "test": {**asdict(self.test), **self.scores}}


def summarise(
    settings: Settings,
    folder: RunDirectory,
    state: State,
    result: Result,
    rows: list[PromptScores],
    own: str,
    majority: dict[str, float],
    words: list[str],
) -> dict[str, Any]:
    """The summary as JSON.

    Args:
        settings: of the run.
        folder: where it is kept.
        state: at its end.
        result: what it found.
        rows: the figures of the result and of what stands beside it.
        own: the name of the result's row.
        majority: what always saying the same class scores on test at best.
        words: what each member of the result says.
    """
    (mine,) = (row for row in rows if row.name == own)
    return {
        "recipe": settings.recipe,
        "name": folder.name,
        "seed": settings.seed,
        "policy": settings.restarts.policy,
        "source": settings.restarts.source,
        "steps": state.lane_steps,
        "seconds": round(state.seconds, 3),
        "stalled_seconds": round(state.stalled_seconds, 6),
        "result": result.kind,
        "measure": next(iter(mine.scores)),
        **mine.as_json(),
        "majority": majority,
        "prompt_words": words[0],
        "proposals": asdict(state.restarts.tally),
        "lineage": [asdict(origin) for origin in result.members[0].lineage],
        "members": [_member(member, said) for member, said in zip(result.members, words, strict=True)],
        "others": {row.name: row.as_json() for row in rows if row is not mine},
    }


def member_words(result: Result, vocabulary: Vocabulary, settings: Settings) -> list[str]:
    """What each member's prompt says, in the nearest words."""
    return [" ".join(vocabulary.nearest(member.prompt, settings.prompt.projection)[0]) for member in result.members]


def table(rows: list[PromptScores]) -> str:
    """Development and test fitness, and what else the task is measured by, a row for each prompt."""
    width = max(len(row.name) for row in rows)
    more = [name for name in rows[0].scores if name != "accuracy"]
    lines = [f"{'':{width}}   dev accuracy   loss   test accuracy   loss" + "".join(f"   test {name}" for name in more)]
    for row in rows:
        dev, test = row.dev, row.test
        lines.append(
            f"{row.name:{width}}   {dev.accuracy:12.1%}  {dev.loss:5.3f}   {test.accuracy:13.1%}  {test.loss:5.3f}"
            + "".join(f"   {row.scores[name]:{len(name) + 5}.1%}" for name in more)
        )
    return "\n".join(lines)


def lineage_lines(result: Result, words: list[str]) -> list[str]:
    """How each member of the result came to be, in words."""
    return [
        f"lane {member.lane} at step {member.step}, dev loss {member.dev.loss:.3f}, now near {said!r}: "
        + " -> ".join(f"{origin.words!r} ({origin.source}, step {origin.step})" for origin in member.lineage)
        for member, said in zip(result.members, words, strict=True)
    ]


def _member(member: Snapshot, words: str) -> dict[str, Any]:
    return {
        "lane": member.lane,
        "step": member.step,
        "dev": asdict(member.dev),
        "words": words,
        "lineage": [asdict(origin) for origin in member.lineage],
    }
