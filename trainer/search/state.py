"""All of a run that changes."""

from dataclasses import dataclass

from trainer.search.evaluation import EvalResult
from trainer.search.lanes import Lane
from trainer.search.pool import Pool
from trainer.search.restarts import Restarts
from trainer.search.trajectory import Trajectory


@dataclass
class State:
    """All of a run that changes; a checkpoint holds this."""

    lanes: list[Lane]
    """The incumbent first, then the challengers."""
    dev: EvalResult
    """The incumbent's fitness when it was last measured."""
    trajectory: Trajectory
    restarts: Restarts
    pool: Pool
    lane_steps: int = 0
    """Lane-steps."""
    iterations: int = 0
    """Turns of the loop; a batch is drawn by it."""
    opened: int = 1
    """Lanes opened so far; the number of the next."""
    seconds: float = 0.0
    stalled_seconds: float = 0.0
    """Spent in bus and restart bookkeeping, with the waits of sync mode."""
