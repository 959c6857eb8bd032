"""What is counted in passes over the training rows, and the learning rate over the budget."""

from math import cos, pi

from shared.settings import OptimizerSettings, Settings

WARMUP_LR = 1e-5
"""The constant warm-up of CoOp (Zhou et al. 2022)."""


def steps_per_epoch(batch_size: int, rows: int) -> int:
    """Steps of one lane in one pass over `rows` training rows."""
    return -(-rows // batch_size)


def resolve_budget(settings: Settings, rows: int) -> Settings:
    """Settings whose `steps` hold the budget, also where it is set in epochs."""
    if settings.epochs is None:
        return settings
    return settings.model_copy(update={"steps": settings.epochs * steps_per_epoch(settings.optimizer.batch_size, rows)})


def learning_rate(settings: OptimizerSettings, lane_steps: int, budget: int, warmup: int) -> float:
    """The learning rate after `lane_steps` of `budget` lane-steps, the first `warmup` of which warm up."""
    if lane_steps < warmup:
        return WARMUP_LR
    match settings.schedule:
        case "constant":
            return settings.lr
        case "linear":
            return settings.lr * (1 - lane_steps / budget)
        case "cosine":
            return settings.lr * (1 + cos(pi * lane_steps / budget)) / 2
