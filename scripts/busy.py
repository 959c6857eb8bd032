"""Steps per second of a run while other processes keep cores busy, and while none does, in turns within one run."""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

from processes import Household, Process

SETTLE = 1.0
"""Seconds left out after each change."""

BUSY = "while True: pass"


def busy(options: argparse.Namespace) -> None:
    """Print steps per second without busy processes, and with each number of them, as medians of the rounds."""
    with tempfile.TemporaryDirectory() as folder, Household(Path(folder)) as home:
        endless = ("--steps", "1000000", "--restarts.policy", "none", "--num_evals", "1")
        trainer = home.start("env", "-u", "TANDEM_THREADS", sys.executable, "-m", "trainer", *options.run, *endless)
        trainer.wait_for("step 0/")
        rates: dict[int, list[float]] = {number: [] for number in (0, *options.busy)}
        for _ in range(options.rounds):
            for number in rates:
                others = [home.start(sys.executable, "-c", BUSY) for _ in range(number)]
                time.sleep(SETTLE)
                rates[number].append(_steps_per_second(home.runs / "latest" / "history.jsonl", options.seconds))
                for process in others:
                    _end(process, signal.SIGKILL)
        _end(trainer, signal.SIGTERM)
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{' '.join(options.run)}, {os.cpu_count()} cores, load of the machine at the end {load}")
    for number, found in rates.items():
        share = median(here / idle for here, idle in zip(found, rates[0], strict=True))
        each = " ".join(f"{rate:.1f}" for rate in found)
        print(f"{number} busy: {median(found):6.2f} steps/s, {share:4.0%} of the idle pace   (rounds: {each})")


def _steps_per_second(history: Path, seconds: float) -> float:
    began = time.time()
    time.sleep(seconds)
    times: list[float] = []
    for line in history.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # the last line may be half written
            event = json.loads(line)
            if event["kind"] == "step":
                times.append(event["time"])
    return sum(began <= moment < began + seconds for moment in times) / seconds


def _end(process: Process, number: signal.Signals) -> None:
    process.send(number)
    process.wait()
