"""Training, development and reported examples, drawn by seed so that no example is in two of them."""

from typing import Literal

import torch

from shared.errors import UserError
from shared.settings import TaskSettings
from trainer.tasks.examples import Example, Split
from trainer.tasks.raw import place

LabeledExamples = list[tuple[Example, int]]
"""Examples and their classes."""


def draw_splits(
    rows: dict[str, LabeledExamples], settings: TaskSettings, labels: list[str], seed: int
) -> tuple[Split, Split, Split]:
    """Training, development and reported examples.

    The reported ones are the same for every seed. The three share no example and no question, and training and
    development hold no example twice.

    Raises:
        UserError: a split is missing, or too few rows are left to draw from.
    """
    reported, train, dev = _sources(rows, settings)
    taken = {_unit(example) for example, _ in reported}
    amounts: dict[str, tuple[LabeledExamples, float | Literal["all"], str]] = {
        "train": (train, settings.shots, "task.shots"),
        "dev": (dev, settings.dev_shots, "task.dev_shots"),
    }
    if settings.dev_share is not None:
        amounts["dev"] = (train, settings.dev_share, "task.dev_share")
    few = settings.shots != "all" and settings.dev_share is None
    drawn: dict[str, LabeledExamples] = {}
    for split in ("train", "dev") if few else ("dev", "train"):  # a split that takes all remaining rows comes last
        source, amount, key = amounts[split]
        drawn[split] = _draw(source, amount, labels, seed, taken, key)
        taken |= {_unit(example) for example, _ in drawn[split]}
    if len({target for _, target in drawn["train"]}) < 2:
        raise UserError(f"{place(settings)}: the training rows name fewer than two classes")
    return _split(drawn["train"]), _split(drawn["dev"]), _split(_cap(reported, settings))


def _sources(
    rows: dict[str, LabeledExamples], settings: TaskSettings
) -> tuple[LabeledExamples, LabeledExamples, LabeledExamples]:
    """The reported rows, and the rows to draw training and development examples from."""
    if settings.report == "third":
        everything = [row for split in rows.values() for row in split]
        if not everything:
            raise UserError(f"{place(settings)}: there are no rows with labels")
        return _draw(everything, 1 / 3, [], 0, set(), "task.report"), everything, everything
    wanted = {"test": "test", "validation": "dev"}[settings.report]
    for split, name in (("train", "train"), (wanted, settings.report)):
        if not rows.get(split):
            raise UserError(
                f"{place(settings)}: there are no {name} rows with labels; a {name} file is needed, "
                "or another task.report"
            )
    train = rows["train"]
    return rows[wanted], train, rows.get("dev") or train if settings.report == "test" else train


def _draw(
    rows: LabeledExamples, amount: float | Literal["all"], labels: list[str], seed: int, taken: set[object], key: str
) -> LabeledExamples:
    """Draw `amount` of the rows that share nothing with `taken`, by seed, none twice.

    Args:
        rows: to draw from.
        amount: a number per class; a share, in whole questions; or all.
        labels: the words of each class.
        seed: of the order.
        taken: units in use.
        key: the setting that gives the amount.
    """
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    left = [row for row in (rows[index] for index in order) if _unit(row[0]) not in taken]
    if isinstance(amount, int):
        return _shots(left, amount, labels, key)
    once: dict[object, tuple[Example, int]] = {}
    for row in left:
        once.setdefault(row[0].key, row)
    if amount == "all":
        return list(once.values())
    units = list(dict.fromkeys(_unit(example) for example, _ in once.values()))
    share = round(amount * len(units))
    if not 0 < share < len(units):
        raise UserError(f"{key} takes {share} of the {len(units)} examples that are left; neither part may be empty")
    cut = set(units[:share])
    return [row for row in once.values() if _unit(row[0]) in cut]


def _shots(rows: LabeledExamples, shots: int, labels: list[str], key: str) -> LabeledExamples:
    classes: list[LabeledExamples] = [[] for _ in labels]
    for row in rows:
        classes[row[1]].append(row)
    drawn: dict[object, tuple[Example, int]] = {}
    for label, members in zip(labels, classes, strict=True):
        before = len(drawn)
        for row in members:
            if len(drawn) - before < shots:
                drawn.setdefault(row[0].key, row)
        found = len(drawn) - before
        if found < shots:
            raise UserError(f"{key} = {shots}, but only {found} rows of class {label!r} are left to draw from")
    return list(drawn.values())


def _unit(example: Example) -> object:
    """The unit of drawing: a question with all its answers, or an example."""
    return example.group or example.key


def _cap(rows: LabeledExamples, settings: TaskSettings) -> LabeledExamples:
    """At most `task.test_rows` rows, in whole questions, the same for every seed."""
    most = settings.test_rows
    if most is None or most >= len(rows):
        return rows
    units: dict[object, LabeledExamples] = {}
    for number, row in enumerate(rows):
        units.setdefault(row[0].group or number, []).append(row)
    whole = list(units.values())
    capped: LabeledExamples = []
    for index in torch.randperm(len(whole), generator=torch.Generator().manual_seed(0)).tolist():
        if len(capped) + len(whole[index]) <= most:
            capped += whole[index]
    if not capped:
        raise UserError(f"task.test_rows = {most} is less than the answers of any one question")
    return capped


def _split(rows: LabeledExamples) -> Split:
    return Split([example for example, _ in rows], torch.tensor([target for _, target in rows]))
