"""What is counted in passes over the training rows, and the learning rate over the budget."""

from math import cos, pi

from shared.settings import OptimizerSettings, Settings

WARMUP_LR = 1e-5
"""The constant warm-up of CoOp (Zhou et al. 2022)."""


def epoch_steps(settings: Settings, rows: int) -> int:
    """Steps of one lane in one pass over `rows` training rows."""
    return -(-rows // settings.optimizer.batch)


def with_budget(settings: Settings, rows: int) -> Settings:
    """Settings whose `steps` hold the budget, also where it is told in epochs."""
    if settings.epochs is None:
        return settings
    return settings.model_copy(update={"steps": settings.epochs * epoch_steps(settings, rows)})


def learning_rate(settings: OptimizerSettings, spent: int, budget: int, warmup: int) -> float:
    """The learning rate after `spent` of `budget` lane-steps, the first `warmup` of which warm up."""
    if spent < warmup:
        return WARMUP_LR
    match settings.schedule:
        case "constant":
            return settings.lr
        case "linear":
            return settings.lr * (1 - spent / budget)
        case "cosine":
            return settings.lr * (1 + cos(pi * spent / budget)) / 2
