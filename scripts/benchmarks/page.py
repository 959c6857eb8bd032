"""Steps per second of a run while viewers read its live page, and while none does, in turns within one run."""

import argparse
import random
import signal
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from urllib.request import ProxyHandler, Request, build_opener

import psutil

from scripts.benchmarks.history import step_times
from scripts.harness.processes import SMALL, Household, free_port

SETTLE = 0.5
"""Seconds left out after each change."""
POLL_SECONDS = 2.0
"""A browser asks for news this often."""
REQUIRED = 0.99


@dataclass(frozen=True)
class Window:
    """A stretch of the run, in Unix seconds."""

    began: float
    ended: float
    serving: float
    """Processor seconds of all threads of the trainer but the one that trains."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ended - self.began


def measure(options: argparse.Namespace) -> None:
    """Print the median, over windows with viewers, of their pace by that of their two neighbours without.

    Neighbours, since machines drift; a median with its interval, since other processes disturb single windows. On a
    machine that others use, the processor time of the threads that serve says more: training loses no more than that.
    """
    with tempfile.TemporaryDirectory() as folder, Household(Path(folder), **SMALL) as home:
        port = free_port()
        endless = ("--steps", "10000000", "--restarts.policy", "none", "--num_evals", "10000")
        trainer = home.trainer("demo", *endless, PORT=str(port))
        trainer.wait_for("step 0/")
        process = psutil.Process(trainer.pid)
        time.sleep(SETTLE)
        windows = [_window(process, port, 0, options.seconds)]
        for _ in range(options.pairs):
            windows.append(_window(process, port, options.viewers, options.seconds))
            windows.append(_window(process, port, 0, options.seconds))
        trainer.send(signal.SIGTERM)
        trainer.wait()
        times = step_times(home.runs / "latest" / "history.jsonl")
    steps = [max(1, sum(one.began <= at < one.ended for at in times)) for one in windows]
    rates = [count / one.seconds for count, one in zip(steps, windows, strict=True)]
    for what, found in (("without viewers", rates[0::2]), (f"with {options.viewers}", rates[1::2])):
        print(f"steps/s {what}: median {median(found):.2f}, {min(found):.2f} to {max(found):.2f}")
    without, served = (
        sum(one.serving for one in found) / sum(one.seconds for one in found) for found in _split(windows)
    )
    print(f"processor time of the threads that serve: {served:.2%} of a core with viewers, {without:.2%} without")
    ratios = [rates[at] / mean((rates[at - 1], rates[at + 1])) for at in range(1, len(rates), 2)]
    generator = random.Random(1)
    medians = sorted(median(generator.choices(ratios, k=len(ratios))) for _ in range(2000))
    verdict = "holds" if median(ratios) >= REQUIRED else "DOES NOT HOLD"
    print(
        f"steps per second, with viewers by without: median {median(ratios):.4f} of {len(ratios)}, "
        f"95 % bootstrap interval {medians[50]:.4f} to {medians[-51]:.4f}; required >= {REQUIRED}: {verdict}"
    )


def _split(windows: list[Window]) -> tuple[list[Window], list[Window]]:
    """Those without viewers, and those with."""
    return windows[0::2], windows[1::2]


def _serving(process: psutil.Process) -> float:
    main = next(thread for thread in process.threads() if thread.id == process.pid)
    return sum(process.cpu_times()[:2]) - main.user_time - main.system_time


def _window(process: psutil.Process, port: int, viewers: int, seconds: float) -> Window:
    ending = threading.Event()
    reading = [threading.Thread(target=_view, args=(port, ending)) for _ in range(viewers)]
    for thread in reading:
        thread.start()
    time.sleep(SETTLE)
    began, serving = time.time(), _serving(process)
    time.sleep(seconds)
    window = Window(began, time.time(), _serving(process) - serving)
    ending.set()
    for thread in reading:
        thread.join()
    time.sleep(SETTLE)
    return window


def _view(port: int, ending: threading.Event) -> None:
    """Read the page, then ask for its sections as its script does."""
    opener = build_opener(ProxyHandler({}))
    address, path, tag = f"http://127.0.0.1:{port}", "/", ""
    while True:
        try:
            with opener.open(Request(address + path, headers={"If-None-Match": tag}), timeout=10) as answer:
                answer.read()
                tag = answer.headers["ETag"]
        except OSError as error:
            if getattr(error, "code", None) != 304:
                raise
        path = "/data"
        if ending.wait(POLL_SECONDS):
            return
