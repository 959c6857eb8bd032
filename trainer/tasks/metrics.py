"""The metrics of each task, as SuperGLUE and GLUE define them."""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from shared.settings import Format
from trainer.tasks.examples import Example, Split


def task_metrics(format: Format, logits: Tensor, split: Split) -> dict[str, float]:
    """The metrics of a format by name; the first is its main one.

    All are from 0 to 1, except Matthews' correlation from -1 to 1. F1 of two classes is that of class 1.

    Args:
        format: of the task.
        logits: [examples, classes].
        split: the examples and their classes.
    """
    logits = logits.cpu()
    return {name: value(logits, split) for name, value in TASK_METRICS.get(format, {"accuracy": _accuracy}).items()}


def _accuracy(logits: Tensor, split: Split) -> float:
    return (logits.argmax(-1) == split.targets).double().mean().item()


def _f1(logits: Tensor, split: Split) -> float:
    return _class_f1(logits.argmax(-1), split.targets, 1)


def _macro_f1(logits: Tensor, split: Split) -> float:
    """Mean F1 of the classes that are predicted or correct at least once."""
    found = logits.argmax(-1)
    classes = {*found.tolist(), *split.targets.tolist()}
    return sum(_class_f1(found, split.targets, label) for label in classes) / len(classes)


def _class_f1(found: Tensor, targets: Tensor, label: int) -> float:
    """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN); 0 if the class is never predicted nor correct."""
    named, right = found == label, targets == label
    return 2 * (named & right).sum().item() / max(1, (named.sum() + right.sum()).item())


def _matthews(logits: Tensor, split: Split) -> float:
    """Matthews' correlation, for two classes the same as Pearson's; 0 if either side holds one class only."""
    pair = torch.stack([logits.argmax(-1), split.targets]).double()
    return torch.corrcoef(pair)[0, 1].nan_to_num(0.0).item()


def _whole_questions(logits: Tensor, split: Split) -> float:
    """Share of the questions whose answers are all judged correctly (MultiRC)."""
    right: dict[str, bool] = defaultdict(lambda: True)
    for example, hit in zip(split.examples, (logits.argmax(-1) == split.targets).tolist(), strict=True):
        right[example.group] &= hit
    return sum(right.values()) / len(right)


def _answer_f1(logits: Tensor, split: Split) -> float:
    """Mean over the queries of the F1 of words between the answer and the nearest gold answer (ReCoRD)."""
    return _best_over_gold(logits, split, _shared_words)


def _answer_match(logits: Tensor, split: Split) -> float:
    """Share of the queries whose answer is a gold answer (ReCoRD)."""
    return _best_over_gold(logits, split, lambda answer, gold: float(_normalise(answer) == _normalise(gold)))


def _best_over_gold(logits: Tensor, split: Split, score: Callable[[str, str], float]) -> float:
    scores = [max(score(best.answer, gold) for gold in best.gold) for best in _best_answers(logits, split)]
    return sum(scores) / len(scores)


def _best_answers(logits: Tensor, split: Split) -> Iterator[Example]:
    """For each query the example with the highest score."""
    best: dict[str, tuple[float, Example]] = {}
    for example, odds in zip(split.examples, (logits[:, 1] - logits[:, 0]).tolist(), strict=True):
        if example.group not in best or odds > best[example.group][0]:
            best[example.group] = (odds, example)
    return (example for _, example in best.values())


def _shared_words(answer: str, gold: str) -> float:
    """F1 of two answers as bags of words."""
    words, right = _normalise(answer).split(), _normalise(gold).split()
    shared = (Counter(words) & Counter(right)).total()
    return 2 * shared / max(1, len(words) + len(right))


def _normalise(answer: str) -> str:
    """An answer normalised as in SQuAD: no capitals, punctuation, articles or extra blanks."""
    bare = answer.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


TASK_METRICS: dict[Format, dict[str, Callable[[Tensor, Split], float]]] = {
    "cb": {"accuracy": _accuracy, "macro_f1": _macro_f1},
    "multirc": {"f1a": _f1, "exact_match": _whole_questions},
    "record": {"f1": _answer_f1, "exact_match": _answer_match},
    "cola": {"matthews": _matthews},
    "mrpc": {"accuracy": _accuracy, "f1": _f1},
    "qqp": {"accuracy": _accuracy, "f1": _f1},
}
"""The metrics of formats; all others have accuracy alone."""
