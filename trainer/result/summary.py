"""The figures of a finished run: `summary.json` and the lines at the end."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shared.settings import Settings
from trainer.backbones.vocabulary import Vocabulary
from trainer.search.evaluation import EvalResult
from trainer.search.pool import TuningResult
from trainer.search.state import RunState


@dataclass(frozen=True)
class PromptScores:
    """Figures of one prompt."""

    name: str
    dev: EvalResult
    test: EvalResult
    metrics: dict[str, float]
    """The task's metrics on test, from 0 to 1; the first is the headline."""

    def as_json(self) -> dict[str, Any]:
        """Development and test figures by name."""
        return {"dev": asdict(self.dev), "test": {**asdict(self.test), **self.metrics}}


def summarise(
    settings: Settings,
    name: str,
    state: RunState,
    result: TuningResult,
    scores: list[PromptScores],
    own: str,
    majority: dict[str, float],
    words: list[str],
) -> dict[str, Any]:
    """The summary as JSON.

    Args:
        settings: of the run.
        name: of the run.
        state: at its end.
        result: what it found.
        scores: the figures of the result and of what it is compared with.
        own: the name of the result's figures.
        majority: the metrics on test of always predicting one class, for the best class.
        words: the nearest words of each member of the result.
    """
    (mine,) = (one for one in scores if one.name == own)
    members = [
        {
            "lane": member.lane,
            "step": member.step,
            "dev": asdict(member.dev),
            "words": said,
            "lineage": [asdict(origin) for origin in member.lineage],
        }
        for member, said in zip(result.members, words, strict=True)
    ]
    return {
        "recipe": settings.recipe,
        "name": name,
        "seed": settings.seed,
        "policy": settings.restarts.policy,
        "source": settings.restarts.source,
        "steps": state.lane_steps,
        "scoring_lane_steps": round(state.scoring_lane_steps, 3),
        "seconds": round(state.seconds, 3),
        "stalled_seconds": round(state.stalled_seconds, 6),
        "result": result.kind,
        "label": own,
        "measure": next(iter(mine.metrics)),
        **mine.as_json(),
        "majority": majority,
        "prompt_words": words[0],
        "proposals": asdict(state.restarts.tally),
        "lineage": members[0]["lineage"],
        "members": members,
        "others": {one.name: one.as_json() for one in scores if one is not mine},
    }


def member_words(result: TuningResult, vocabulary: Vocabulary, settings: Settings) -> list[str]:
    """The nearest words of each member's prompt."""
    return [" ".join(vocabulary.nearest(member.prompt, settings.prompt.projection)[0]) for member in result.members]


def table(summary: Mapping[str, Any]) -> str:
    """Development and test figures, a row for each prompt: the untrained one, the result, and the baseline."""
    others = list(summary["others"].items())
    rows = [*others[:1], (summary["label"], summary), *others[1:]]
    width = max(len(name) for name, _ in rows)
    extra = [name for name in summary["test"] if name not in ("loss", "accuracy")]
    lines = [f"{'':{width}}   dev accuracy   loss   test accuracy   loss" + "".join(f"   test {one}" for one in extra)]
    for name, row in rows:
        dev, test = row["dev"], row["test"]
        lines.append(
            f"{name:{width}}   {dev['accuracy']:12.1%}  {dev['loss']:5.3f}   {test['accuracy']:13.1%}"
            f"  {test['loss']:5.3f}" + "".join(f"   {test[one]:{len(one) + 5}.1%}" for one in extra)
        )
    return "\n".join(lines)


def lineage_lines(summary: Mapping[str, Any]) -> list[str]:
    """Where each member of the result comes from, in words."""
    return [
        f"lane {member['lane']} at step {member['step']}, dev loss {member['dev']['loss']:.3f}, now near "
        f"{member['words']!r}: "
        + " -> ".join(
            f"{origin['words']!r} ({origin['source']}, step {origin['step']})" for origin in member["lineage"]
        )
        for member in summary["members"]
    ]
