"""Mutable state of a run; what a checkpoint saves."""

from dataclasses import dataclass

from trainer.search.evaluation import EvalResult
from trainer.search.lanes import Lane
from trainer.search.pool import Pool
from trainer.search.restarts import Restarts
from trainer.search.trajectory import Trajectory


@dataclass
class RunState:
    """Mutable state of a run; what a checkpoint saves."""

    lanes: list[Lane]
    """The incumbent first, then the challengers."""
    dev: EvalResult
    """The incumbent's development result when it was last measured."""
    trajectory: Trajectory
    restarts: Restarts
    pool: Pool
    lane_steps: int = 0
    """Gradient steps, one for each lane; what the budget counts."""
    iterations: int = 0
    """Iterations of the loop; each draws one batch."""
    exchanged: int = -1
    """Lane-steps at the last exchange with proposers. If a stop breaks off the step after it, only that is repeated."""
    opened: int = 1
    """Lanes opened so far; the number of the next."""
    lanes_per_pass: int = 16
    """Lanes or candidates in one pass through the backbone at most; halved where they do not fit into memory."""
    seconds: float = 0.0
    """Training time."""
    scoring_lane_steps: float = 0.0
    """What scoring candidates cost, in lane-steps; part of `lane_steps` only with `restarts.charge_scoring`."""
    stalled_seconds: float = 0.0
    """Of that, bus and restart bookkeeping, with the waits of sync mode."""

    @property
    def record_step(self) -> int:
        """Lane-steps that the record gives to an event of now.

        After the exchange of an iteration it belongs to the next one: what a stop takes over is not mistaken for what
        that exchange saw.
        """
        return self.lane_steps + (self.exchanged == self.lane_steps)
