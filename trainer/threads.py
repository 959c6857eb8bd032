"""Processor threads of the trainer.

OpenMP's threads wait for each other at the end of each parallel loop, by default in a busy loop of some milliseconds.
Where another process takes one of the cores, all threads then burn their time slices until the missing one gets its
own, and a step takes many times longer. A short busy loop, after which a thread sleeps, costs a few percent on an idle
machine and keeps most of the pace on a busy one; `scripts/bench busy` measures both.
"""

import os

SPIN_COUNT = "1000"
"""Turns of the busy loop, some microseconds."""

USERS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_CPU_AFFINITY", "OMP_PROC_BIND")
"""Variables of the environment with which users choose for themselves."""


def wait_briefly() -> None:
    """Set the busy loop of OpenMP, which reads it when torch is loaded; not where the user set any of `USERS`."""
    if not any(name in os.environ for name in USERS):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
