"""Statistics of paired differences, one for each seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean

RESAMPLES = 10_000


@dataclass(frozen=True)
class SignTest:
    """How many differences are above and below zero."""

    wins: int
    losses: int
    p: float
    """Two-sided: the chance of a split at least this uneven if either sign is as likely. Ties are left out."""


def sign_test(differences: Sequence[float]) -> SignTest:
    """The exact sign test."""
    wins = sum(value > 0 for value in differences)
    losses = sum(value < 0 for value in differences)
    total = wins + losses
    tail = sum(comb(total, count) for count in range(max(wins, losses), total + 1)) / 2**total
    return SignTest(wins, losses, min(1.0, 2 * tail))


def bootstrap(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 percent percentile bootstrap interval of the mean; it is too narrow for few values.

    It covers 83 percent at 5 values and 89 at 10, so tables show it next to a t interval and never alone.
    """
    generator = random.Random(seed)
    means = sorted(fmean(generator.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[round(0.025 * (RESAMPLES - 1))], means[round(0.975 * (RESAMPLES - 1))]
