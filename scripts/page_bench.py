"""Steps per second of a run while viewers read its live page, and while none does, in turns within one run."""

import argparse
import json
import signal
import tempfile
import threading
import time
from pathlib import Path
from statistics import mean, median
from urllib.request import ProxyHandler, Request, build_opener

from scripts.harness.processes import SMALL, Household, free_port

SETTLE = 1.0
"""Seconds left out after each change."""
POLL_SECONDS = 2.0
"""A browser asks for news this often."""
REQUIRED = 0.99

Window = tuple[bool, float, float]
"""Whether there were viewers, and its begin and end in Unix seconds."""


def page(options: argparse.Namespace) -> None:
    """Print the median, over pairs of neighbouring windows, of the pace with viewers by that without.

    Every window with viewers is compared with the mean of its two neighbours without, since machines drift.
    """
    with tempfile.TemporaryDirectory() as folder, Household(Path(folder), **SMALL) as home:
        port = free_port()
        endless = ("--steps", "10000000", "--restarts.policy", "none", "--num_evals", "10000")
        trainer = home.trainer("demo", *endless, PORT=str(port))
        trainer.wait_for("step 0/")
        time.sleep(SETTLE)
        windows: list[Window] = [_window(None, 0, options.seconds)]
        for _ in range(options.pairs):
            windows += [_window(port, options.viewers, options.seconds), _window(None, 0, options.seconds)]
        trainer.send(signal.SIGTERM)
        trainer.wait()
        events = map(json.loads, (home.runs / "latest" / "history.jsonl").read_text(encoding="utf-8").splitlines())
        times = [event["time"] for event in events if event["kind"] == "step"]
    rates = [sum(began <= at < ended for at in times) / (ended - began) for _, began, ended in windows]
    ratios = [rates[at] / mean((rates[at - 1], rates[at + 1])) for at in range(1, len(rates), 2)]
    print(f"steps/s without viewers   {' '.join(f'{rate:7.2f}' for rate in rates[0::2])}")
    print(f"steps/s with {options.viewers}            {' '.join(f'{rate:7.2f}' for rate in rates[1::2])}")
    print(f"ratios                    {' '.join(f'{ratio:7.4f}' for ratio in ratios)}")
    verdict = "holds" if median(ratios) >= REQUIRED else "DOES NOT HOLD"
    print(f"median of the ratios: {median(ratios):.4f}, required >= {REQUIRED}: {verdict}")


def _window(port: int | None, viewers: int, seconds: float) -> Window:
    ending = threading.Event()
    reading = [threading.Thread(target=_view, args=(port, ending)) for _ in range(viewers)]
    for thread in reading:
        thread.start()
    time.sleep(SETTLE)
    began = time.time()
    time.sleep(seconds)
    ended = time.time()
    ending.set()
    for thread in reading:
        thread.join()
    time.sleep(SETTLE)
    return bool(viewers), began, ended


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
