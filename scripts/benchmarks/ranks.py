"""Lane-steps per second of one process and of two ranks, each with one thread, in turns."""

import argparse
import os
import signal
import tempfile
import time
from pathlib import Path
from statistics import median

from scripts.benchmarks.history import step_times
from scripts.harness.processes import Household, Process

SETTLE = 1.0
"""Seconds left out after each change."""
ENDLESS = ("--steps", "10000000", "--restarts.policy", "none", "--num_evals", "1")


def measure(options: argparse.Namespace) -> None:
    """Start both, and let one of the two run at a time."""
    with tempfile.TemporaryDirectory() as folder, Household(Path(folder)) as home:
        runs = {"one": home.trainer(*options.run, *ENDLESS, "--name", "one")}
        runs["two"] = home.ranks(2, *options.run, *ENDLESS, "--name", "two")
        for process in runs.values():
            process.wait_for("step 0/")
            time.sleep(SETTLE)
            _send(process, signal.SIGSTOP)
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, process in runs.items():
                _send(process, signal.SIGCONT)
                time.sleep(SETTLE)
                began = time.time()
                time.sleep(options.seconds)
                _send(process, signal.SIGSTOP)
                history = home.runs / name / "history.jsonl"
                rates[name].append(_rate(history, began, began + options.seconds))
        for process in runs.values():
            _send(process, signal.SIGCONT)
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{' '.join(options.run)}, {os.cpu_count()} cores, one thread a rank, load of the machine at the end {load}")
    for name, found in rates.items():
        each = " ".join(f"{rate:.2f}" for rate in found)
        print(f"{name:4} {median(found):8.2f} lane-steps/s   (rounds: {each})")
    print(f"two ranks take {median(two / one for one, two in zip(*rates.values(), strict=True)):.2f} times the steps")


def _send(process: Process, number: signal.Signals) -> None:
    for pid in process.children() or [process.process.pid]:
        os.kill(pid, number)


def _rate(history: Path, began: float, ended: float) -> float:
    """Lane-steps per second between the first and the last step in a window."""
    within = [moment for moment in step_times(history) if began <= moment < ended]
    return (len(within) - 1) / (within[-1] - within[0]) if len(within) > 1 else 0.0
