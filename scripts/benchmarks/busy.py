"""Steps per second of a run while other processes keep cores busy, and while none does, in turns within one run."""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from scripts.benchmarks.history import step_times
from scripts.harness.processes import Household, Process

SETTLE = 1.0
"""Seconds left out after each change."""

BUSY = "while True: pass"


def measure(options: argparse.Namespace) -> None:
    """Print steps per second without busy processes, and with each number of them, as medians of the rounds."""
    windows: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder, Household(Path(folder)) as home:
        endless = ("--steps", "1000000", "--restarts.policy", "none", "--num_evals", "1")
        trainer = home.start("env", "-u", "TANDEM_THREADS", sys.executable, "-m", "trainer", *options.run, *endless)
        trainer.wait_for("step 0/")
        for number in (0, *options.busy) * options.rounds:
            others = [home.start(sys.executable, "-c", BUSY) for _ in range(number)]
            time.sleep(SETTLE)
            windows.append((number, time.time()))
            time.sleep(options.seconds)
            for process in others:
                _end(process, signal.SIGKILL)
        _end(trainer, signal.SIGTERM)
        times = step_times(home.runs / "latest" / "history.jsonl")
    rates: dict[int, list[float]] = {}
    for number, began in windows:
        steps = sum(began <= moment < began + options.seconds for moment in times)
        rates.setdefault(number, []).append(steps / options.seconds)
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{' '.join(options.run)}, {os.cpu_count()} cores, load of the machine at the end {load}")
    for number, found in rates.items():
        each = " ".join(f"{rate:.1f}" for rate in found)
        share = median(found) / max(median(rates[0]), 1e-9)
        print(f"{number} busy: {median(found):6.2f} steps/s, {share:4.0%} of the idle pace   (rounds: {each})")


def _end(process: Process, number: signal.Signals) -> None:
    process.send(number)
    process.wait()
