"""Tables: the comparison as Markdown and as CSV."""

import csv
import io
import platform
import subprocess
from collections.abc import Sequence
from datetime import date
from itertools import product
from os import cpu_count
from pathlib import Path
from statistics import fmean, median, stdev

from scripts.comparison.arms import VOCABULARY
from scripts.comparison.results import ArmResults, ConditionResults
from scripts.comparison.statistics import bootstrap, sign_test
from trainer.report.comparison import interval
from trainer.runs.directory import read_settings

HEADER = (
    "arm",
    "dev loss",
    "test",
    "difference",
    "95 % t interval",
    "bootstrap",
    "better : worse (sign test)",
    "above vocabulary, 95 % t interval",
)
COSTS = (
    "arm",
    "seconds",
    "to plain's dev loss: lane-steps",
    "seconds",
    "runs",
    "scoring, lane-steps",
    "tokens in + out",
    "candidates per adoption",
    "at the majority class",
)
DASH = "-"


def markdown(conditions: Sequence[ConditionResults], command: str, root: Path) -> str:
    """All tables, with the command, the date, the machine and the commit."""
    parts = [f"    {command}", about(root), *(_condition(one) for one in conditions)]
    if len(conditions) > 1:
        parts.append(_mean(conditions))
    return "\n\n".join(parts) + "\n"


def about(root: Path) -> str:
    """When and where the tables were made."""
    import torch  # takes seconds; mistakes in the command are said before

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=root, capture_output=True, text=True, check=False
    ).stdout.strip()
    machine = f"{platform.system()} {platform.machine()}, {cpu_count()} cores"
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{date.today().isoformat()}; {machine}{device}; {versions}; commit {commit or 'unknown'}."


def _condition(results: ConditionResults) -> str:
    first = next(iter(results.plain.outcomes.values()))
    reference = results.reference
    seeds = len(results.plain.outcomes)
    lines = [
        f"## {results.name}",
        "",
        f"{seeds} seeds, {first.summary['steps']} lane-steps, test {first.measure} in percent: mean ± standard "
        f"deviation. Differences are to {reference.name} and to vocabulary, paired by seed. Always the same class: "
        f"{fmean(outcome.majority for outcome in results.plain.outcomes.values()):.1f}.",
        "",
        _rows(HEADER, [_scores(arm, results) for arm in results.arms]),
        "",
        _rows(COSTS, [_costs(arm, results.plain) for arm in results.arms]),
    ]
    if results.rates:
        chosen = [
            f"seed {seed}: {read_settings(outcome.path).optimizer.lr:g}" for seed, outcome in reference.outcomes.items()
        ]
        lines += ["", f"Learning rates of {reference.name}: {', '.join(chosen)}."]
    return "\n".join(lines)


def _scores(arm: ArmResults, results: ConditionResults) -> list[str]:
    dev, reference, control = f"{arm.mean('dev_loss'):.3f}", results.reference, results.vocabulary
    gaps = difference(arm.differences(reference), arm is reference)
    above = above_vocabulary(arm.differences(control) if control and arm is not control else [])
    return [arm.name, dev, spread(arm.tests), *gaps, above]


def above_vocabulary(values: Sequence[float]) -> str:
    """Mean and t interval of paired differences to the arm vocabulary; a dash where there are none."""
    if (found := interval(values)) is None:
        return DASH
    return f"{found.mean:+.2f}" + ("" if found.half is None else f", {found.low:+.2f} to {found.high:+.2f}")


def difference(values: Sequence[float], is_reference: bool = False) -> list[str]:
    """Mean, t interval, bootstrap interval and sign test of paired differences."""
    if is_reference:
        return [DASH] * 4
    found = interval(values)
    assert found is not None
    signs = sign_test(values)
    split = f"{signs.wins} : {signs.losses} (p = {signs.p:.3f})"
    if found.half is None:
        return [f"{found.mean:+.2f}", DASH, DASH, split]
    low, high = bootstrap(values)
    return [f"{found.mean:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}", f"{low:+.2f} to {high:+.2f}", split]


def _costs(arm: ArmResults, plain: ArmResults) -> list[str]:
    reached = arm.reached(plain)
    per_adoption = arm.candidates_per_adoption
    tokens = f"{arm.mean('input_tokens'):,.0f} + {arm.mean('output_tokens'):,.0f}"
    return [
        arm.name,
        f"{arm.mean('seconds'):.1f}",
        f"{median(point.lane_steps for point in reached):.0f}" if reached else DASH,
        f"{median(point.seconds for point in reached):.1f}" if reached else DASH,
        f"{len(reached)} of {len(arm.outcomes)}",
        f"{arm.mean('scoring'):.1f}" if arm.mean("scored") else DASH,
        tokens if arm.mean("output_tokens") else DASH,
        f"{per_adoption:.1f}" if per_adoption else DASH,
        f"{arm.at_majority} of {len(arm.outcomes)}",
    ]


def _mean(conditions: Sequence[ConditionResults]) -> str:
    names = [arm.name for arm in conditions[0].arms]
    rows = []
    for index, name in enumerate(names):
        arms = [condition.arms[index] for condition in conditions]
        tests = [fmean(values) for values in zip(*(arm.tests for arm in arms), strict=True)]
        gaps = mean_differences(conditions, index)
        above = above_vocabulary(mean_differences(conditions, index, VOCABULARY) if name != VOCABULARY else [])
        rows.append([name, spread(tests), *difference(gaps, arms[0] is conditions[0].reference), above])
    return "\n".join(
        [
            f"## Mean of {', '.join(condition.name for condition in conditions)}",
            "",
            f"By seed; differences are to {conditions[0].reference.name} and to vocabulary.",
            "",
            _rows((HEADER[0], *HEADER[2:]), rows),
        ]
    )


def mean_differences(conditions: Sequence[ConditionResults], index: int, to: str | None = None) -> list[float]:
    """The mean over conditions of an arm's differences to the arm `to`, or to the reference, by seed.

    Empty where there is no arm `to`.
    """
    each = []
    for condition in conditions:
        other = condition.arm(to) if to else condition.reference
        if other is None:
            return []
        each.append(condition.arms[index].differences(other))
    return [fmean(values) for values in zip(*each, strict=True)]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{fmean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def runs_csv(conditions: Sequence[ConditionResults]) -> str:
    """A line for each run, those of every learning rate among them."""
    columns = ("test", "majority", "dev_loss", "dev_accuracy", "seconds", "scoring", "scored", "adopted")
    counts = ("input_tokens", "output_tokens", "llm_seconds")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["condition", "arm", "seed", "measure", "lane_steps", *columns, *counts, "run"])
    for condition in conditions:
        for arm in [*condition.arms, *condition.rates]:
            for seed, one in arm.outcomes.items():
                values = [getattr(one, name) for name in (*columns, *counts)]
                writer.writerow(
                    [condition.name, arm.name, seed, one.measure, one.summary["steps"], *values, one.path.name]
                )
    return file.getvalue()


def differences_csv(conditions: Sequence[ConditionResults]) -> str:
    """Lines for each arm of each condition: paired differences to the reference and to vocabulary, in test points."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    ends = [f"{kind}95_{end}" for kind in ("t", "bootstrap") for end in ("low", "high")]
    writer.writerow(["condition", "arm", "reference", "seeds", "mean", *ends, "better", "worse", "sign_p"])
    for condition in conditions:
        others = [other for other in (condition.reference, condition.vocabulary) if other]
        for arm, other in product(condition.arms, others):
            if arm is other:
                continue
            gaps = arm.differences(other)
            found, signs = interval(gaps), sign_test(gaps)
            assert found is not None
            limits = [found.low, found.high, *bootstrap(gaps)] if found.half is not None else [""] * 4
            counts = [signs.wins, signs.losses, signs.p]
            names = [condition.name, arm.name, other.name]
            writer.writerow([*names, len(gaps), found.mean, *limits, *counts])
    return file.getvalue()
