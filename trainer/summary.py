"""What is left of a run: `summary.json` and the lines at the end."""

from dataclasses import asdict, dataclass
from typing import Any

from shared.settings import Settings
from trainer.fitness import Fitness
from trainer.folder import RunFolder
from trainer.pool import Result, Snapshot
from trainer.state import State
from trainer.vocabulary import Vocabulary


@dataclass(frozen=True)
class Row:
    """One prompt's development and test fitness."""

    name: str
    dev: Fitness
    test: Fitness


def summarise(
    settings: Settings, folder: RunFolder, state: State, result: Result, rows: list[Row], words: list[str]
) -> dict[str, Any]:
    """The summary as JSON; `rows` begin with the untrained prompt and the run's own result."""
    return {
        "recipe": settings.recipe,
        "name": folder.name,
        "seed": settings.seed,
        "policy": settings.restarts.policy,
        "source": settings.restarts.source,
        "steps": state.spent,
        "seconds": round(state.seconds, 3),
        "stalled_seconds": round(state.stalled_seconds, 6),
        "result": result.kind,
        "dev": asdict(rows[1].dev),
        "test": asdict(rows[1].test),
        "prompt_words": words[0],
        "proposals": asdict(state.restarts.tally),
        "lineage": [asdict(origin) for origin in result.members[0].lineage],
        "members": [_member(member, said) for member, said in zip(result.members, words, strict=True)],
        "others": {row.name: {"dev": asdict(row.dev), "test": asdict(row.test)} for row in (rows[0], *rows[2:])},
    }


def member_words(result: Result, vocabulary: Vocabulary, settings: Settings) -> list[str]:
    """What each member's prompt says, in the nearest words."""
    return [" ".join(vocabulary.nearest(member.prompt, settings.prompt.projection)[0]) for member in result.members]


def table(rows: list[Row]) -> str:
    """Development and test fitness, a row for each prompt."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}}   dev accuracy   loss   test accuracy   loss"]
    for row in rows:
        dev, test = row.dev, row.test
        lines.append(
            f"{row.name:{width}}   {dev.accuracy:12.1%}  {dev.loss:5.3f}   {test.accuracy:13.1%}  {test.loss:5.3f}"
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
