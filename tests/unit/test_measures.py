"""Measures: hand-computed cases, scikit-learn's values on random ones, and real questions and queries."""

from pathlib import Path

import pytest
import torch

from shared.settings import TaskSettings
from trainer.tasks import load_task
from trainer.tasks.examples import Example, Split
from trainer.tasks.metrics import task_metrics

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "fewglue_32dev"


def logits_of(found, classes=2):
    """Logits whose largest is at `found`."""
    return torch.nn.functional.one_hot(torch.tensor(found), classes).float()


def split_of(targets, **columns):
    """Examples with these classes; `columns` are fields of the examples, a list each."""
    fields = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return Split([Example(**one) for one in fields or [{}] * len(targets)], torch.tensor(targets))


def figures(format, found, targets, classes=2, **columns):
    return task_metrics(format, logits_of(found, classes), split_of(targets, **columns))


@pytest.mark.parametrize(
    "format", ["text", "image", "boolq", "copa", "rte", "wic", "wsc", "sst2", "mnli", "qnli", "wnli"]
)
def test_most_forms_are_measured_by_accuracy_alone(format):
    assert figures(format, [0, 1, 1, 0], [0, 1, 0, 0]) == {"accuracy": 0.75}


def test_cb_has_accuracy_and_the_mean_f1_of_its_classes():
    # F1 by hand: entailment 2*2 / (3+2), contradiction 2*1 / (2+3), neutral 0 / (1+1)
    found = figures("cb", [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 1], classes=3)
    assert list(found) == ["accuracy", "macro_f1"]
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 5 + 0) / 3)


def test_pairs_have_accuracy_and_the_f1_of_class_1():
    for format in ("mrpc", "qqp"):
        assert figures(format, [1, 1, 0, 0], [1, 0, 1, 0]) == {"accuracy": 0.5, "f1": 0.5}
        assert figures(format, [0, 0], [0, 0]) == {"accuracy": 1.0, "f1": 0.0}


def test_cola_is_a_correlation():
    # (TP TN - FP FN) / sqrt(...) = (2*1 - 1*1) / sqrt(3*3*2*2)
    assert figures("cola", [1, 1, 1, 0, 0], [1, 1, 0, 1, 0]) == {"matthews": pytest.approx(1 / 6)}
    assert figures("cola", [1, 0], [0, 1]) == {"matthews": pytest.approx(-1.0)}
    assert figures("cola", [1, 1, 1], [1, 0, 1]) == {"matthews": 0.0}


@pytest.mark.parametrize("seed", range(5))
def test_the_figures_are_scikit_learns(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(seed)
    found, targets = (torch.randint(3, (40,), generator=generator).tolist() for _ in range(2))
    if seed == 0:
        found = [min(one, 1) for one in found]  # a class that is never found
    assert figures("cb", found, targets, 3)["macro_f1"] == pytest.approx(
        metrics.f1_score(targets, found, average="macro")
    )
    found, targets = ([one % 2 for one in some] for some in (found, targets))
    assert figures("mrpc", found, targets)["f1"] == pytest.approx(metrics.f1_score(targets, found))
    assert figures("cola", found, targets)["matthews"] == pytest.approx(metrics.matthews_corrcoef(targets, found))


def test_multirc_counts_answers_and_whole_questions():
    # answers: TP 2, FP 1, FN 1; questions: a right, b and c not
    found = figures("multirc", [1, 0, 1, 1, 0], [1, 0, 1, 0, 1], group=["a", "a", "b", "b", "c"])
    assert list(found) == ["f1a", "exact_match"]
    assert found["f1a"] == pytest.approx(4 / 6)
    assert found["exact_match"] == pytest.approx(1 / 3)


def record(answers, odds, gold):
    """One query of ReCoRD: each answer's log-odds of being right."""
    columns = {"group": ["q"] * len(answers), "answer": answers, "gold": [gold] * len(answers)}
    logits = torch.stack([torch.zeros(len(odds)), torch.tensor(odds)], 1)
    return task_metrics("record", logits, split_of([int(one in gold) for one in answers], **columns))


def test_record_judges_the_surest_entity_of_each_query():
    answers, gold = ["Costa", "Olimpija Ljubljana", "Young"], ("Olimpija Ljubljana",)
    assert record(answers, [-1.0, 2.0, 1.0], gold) == {"f1": 1.0, "exact_match": 1.0}
    assert record(answers, [-1.0, -2.0, -3.0], gold) == {"f1": 0.0, "exact_match": 0.0}  # none is likely; one is said
    assert record(["Costa", "Diego Costa"], [1.0, 0.0], ("Diego Costa",)) == {
        "f1": pytest.approx(2 / 3),
        "exact_match": 0.0,
    }


def test_record_takes_the_nearest_gold_answer_and_ignores_dress():
    assert record(["the U.S."], [1.0], ("America", "US")) == {"f1": 1.0, "exact_match": 1.0}
    assert record(["New  York City"], [1.0], ("York", "new york")) == {"f1": pytest.approx(4 / 5), "exact_match": 0.0}


def real(format, name):
    if not DATA.is_dir():
        pytest.skip("needs ../shared/data/fewglue_32dev, which is not there")
    settings = TaskSettings(path=str(DATA / name), format=format, report="validation", shots="all", dev_share=0.25)
    return load_task(settings, 1).test


@pytest.mark.parametrize(("format", "name"), [("multirc", "MultiRC"), ("record", "ReCoRD")])
def test_knowing_the_answers_of_real_rows_is_worth_everything(format, name):
    split = real(format, name)
    right, wrong = logits_of(split.targets.tolist()), logits_of((1 - split.targets).tolist())
    assert set(task_metrics(format, right, split).values()) == {1.0}
    assert task_metrics(format, wrong, split)["exact_match"] < 0.1


def test_always_no_on_real_questions():
    split = real("multirc", "MultiRC")
    questions = {}
    for example, target in zip(split.examples, split.targets.tolist(), strict=True):
        questions.setdefault(example.group, []).append(target)
    without_answers = sum(not any(targets) for targets in questions.values()) / len(questions)
    always_no = torch.tensor([[1.0, 0.0]]).expand(len(split.examples), 2)
    assert task_metrics("multirc", always_no, split) == {"f1a": 0.0, "exact_match": pytest.approx(without_answers)}
