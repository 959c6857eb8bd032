"""Steps per second with a slow LLM and without a proposer, in turns within one run."""

import argparse
import json
import signal
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

from scripts.harness.processes import FreshLLM, Household, Process


@dataclass(frozen=True)
class Window:
    """A stretch of one run."""

    proposer: bool
    """Whether there was one."""
    began: float
    ended: float


def measure(options: argparse.Namespace) -> None:
    """Steps per second with no proposer and with one whose LLM sleeps, alternating within one run.

    Windows of one process are compared, because two processes alone differ by more than is looked for
    here; and each window with a proposer is compared with the mean of its two neighbours without, because
    machines drift. A window with a proposer is long enough that an answer arrives in it, is measured and
    gets a short trial. A trial is gradient work, which the budget counts as such: its iterations count with
    their bus work only, and its judgement not at all.
    """
    llm = FreshLLM()
    llm.delay = options.sleep
    with tempfile.TemporaryDirectory() as folder, Household(Path(folder)) as home:
        endless = {"steps": 1_000_000, "restarts.queue_size": 1, "restarts.trial_steps": 5, "restarts.patience": 0}
        trainer = home.trainer("demo", *(f"--{key}={value}" for key, value in endless.items()))
        trainer.wait_for("step 0/")
        time.sleep(options.settle)
        windows = [_window(False, options.seconds)]
        for _ in range(options.pairs):
            asked = len(llm.requests)
            proposer = home.asking(llm)
            proposer.wait_for("connected to")
            time.sleep(options.settle)
            windows.append(_window(True, options.sleep + options.settle))
            if len(llm.requests) == asked or "candidates" not in proposer.text:
                raise AssertionError(f"the proposer was not asked, or did not answer in time:\n{proposer.text}")
            _stop(proposer)
            time.sleep(options.settle)
            windows.append(_window(False, options.seconds))
        _stop(trainer)
        iterations = _iterations(home.runs / "latest" / "history.jsonl")
    llm.stop()
    _report(windows, iterations, options)


def _window(proposer: bool, seconds: float) -> Window:
    began = time.time()
    time.sleep(seconds)
    window = Window(proposer, began, time.time())
    print(f"{'with' if proposer else 'without'} a proposer: {window.ended - window.began:.1f} s", flush=True)
    return window


def _stop(process: Process) -> None:
    process.send(signal.SIGTERM)
    process.wait()


def _iterations(history: Path) -> list[dict[str, Any]]:
    """The steps of a run, each with the `seconds` since the one before and whether a trial took some of them."""
    events = [event for event in map(json.loads, history.read_text().splitlines()) if event["kind"] == "step"]
    for before, after in pairwise(events):
        after["seconds"] = after["time"] - before["time"]
        after["trial"] = max(len(before["lanes"]), len(after["lanes"])) > 1
    return events[1:]


def _report(windows: list[Window], iterations: list[dict[str, Any]], options: argparse.Namespace) -> None:
    within = [
        [iteration for iteration in iterations if window.began <= iteration["time"] < window.ended]
        for window in windows
    ]
    rates = [_rate(found) for found in within]
    ratios = [rates[index] / mean((rates[index - 1], rates[index + 1])) for index in range(1, len(rates), 2)]
    bus = {kind: _bus_microseconds(windows, within, kind) for kind in (False, True)}

    print(f"\nan LLM that sleeps {options.sleep:g} s before each answer; {sum(map(len, within))} iterations measured")
    print(f"steps/s without a proposer  {' '.join(f'{rate:7.2f}' for rate in rates[0::2])}")
    print(f"steps/s with one            {' '.join(f'{rate:7.2f}' for rate in rates[1::2])}")
    print(f"ratios                      {' '.join(f'{ratio:7.4f}' for ratio in ratios)}")
    for kind, values in bus.items():
        print(
            f"bus work per step, {'with' if kind else 'without'} a proposer: "
            f"median {median(values):.1f} us, p99 {quantiles(values, n=100)[98]:.1f} us, most {max(values):.0f} us"
        )
    print(f"share of the time that it takes, with a proposer: {_bus_share(windows, within):.2%}")
    print()
    _verdict("median of the ratios", median(ratios), ">= 0.99", median(ratios) >= 0.99, ".4f")
    _verdict("median bus work, us", median(bus[True]), "< 20", median(bus[True]) < 20, ".1f")


def _rate(iterations: list[dict[str, Any]]) -> float:
    plain = [iteration for iteration in iterations if not iteration["trial"]]
    trials = [iteration for iteration in iterations if iteration["trial"]]
    return len(plain) / (
        sum(iteration["seconds"] for iteration in plain) + sum(iteration["bus_seconds"] for iteration in trials)
    )


def _bus_share(windows: list[Window], within: list[list[dict[str, Any]]]) -> float:
    """What the loop itself says it lost, which no other load on the machine blurs."""
    iterations = _chosen(windows, within, proposer=True)
    return sum(iteration["bus_seconds"] for iteration in iterations) / sum(
        iteration["seconds"] for iteration in iterations
    )


def _bus_microseconds(windows: list[Window], within: list[list[dict[str, Any]]], proposer: bool) -> list[float]:
    return [1e6 * iteration["bus_seconds"] for iteration in _chosen(windows, within, proposer)]


def _chosen(windows: list[Window], within: list[list[dict[str, Any]]], proposer: bool) -> list[dict[str, Any]]:
    """The iterations of all windows with, or of all without, a proposer."""
    return [
        iteration
        for window, iterations in zip(windows, within, strict=True)
        if window.proposer == proposer
        for iteration in iterations
    ]


def _verdict(what: str, value: float, bound: str, holds: bool, form: str) -> None:
    print(f"{what}: {value:{form}}, required {bound}: {'holds' if holds else 'DOES NOT HOLD'}")
