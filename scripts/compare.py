"""Compare plain prompt tuning, controls and the LLM at the same lane-steps, over several seeds.

    scripts/compare agnews sst2 --data ../shared/data --seeds 1-10

Each run is kept in its own folder, so a comparison that was stopped continues where it was. The arm
llm is the real thing: a proposer process, asked over ZeroMQ while the trainer trains.
"""

import argparse
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from shared import logs  # noqa: E402 - the checkout must be found first

logs.set_up()

from shared.config import CommandLine  # noqa: E402
from shared.errors import UserError, run_command  # noqa: E402
from shared.settings import Settings  # noqa: E402
from trainer import api  # noqa: E402
from trainer.backbones import load_backbone  # noqa: E402
from trainer.backbones.backbone import Backbone  # noqa: E402
from trainer.runs.directory import SUMMARY, read_json  # noqa: E402
from trainer.runs.signals import Stopped, StopSignals  # noqa: E402
from trainer.tasks.examples import Task  # noqa: E402

ARMS = {
    "head": ["--restarts.policy", "none", "--prompt.frozen"],
    "plain": ["--restarts.policy", "none"],
    "plain-slow": ["--restarts.policy", "none", "--optimizer.lr", "5e-4"],
    "random": ["--restarts.source", "random"],
    "vocabulary": ["--restarts.source", "vocabulary"],
    "llm": ["--restarts.source", "bus"],
    "llm-sync": ["--restarts.source", "bus", "--restarts.mode", "sync"],
}


def main() -> int:
    """Make the runs that are missing, then print the comparison."""
    options, extra = _parse()
    if options.data and not options.data.is_dir():
        raise UserError(f"--data {options.data}: there is no such folder")
    logging.getLogger("trainer").setLevel(logging.WARNING)
    signals = StopSignals()
    try:
        with signals.installed(), _proposer(options.arms, extra) as endpoint:
            for recipe in options.recipes:
                _run_recipe(recipe, options, ["--bus.bind", endpoint, *extra], signals)
    except Stopped:
        print("stopped; the same command goes on from here")
        return 128 + signals.number
    for recipe in options.recipes:
        _print_recipe(recipe, options)
    _print_mean(options)
    return 0


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="scripts/compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Other options are settings, as `python -m trainer --help` lists them, for all arms alike.",
        allow_abbrev=False,
    )
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    parser.add_argument(
        "--data",
        type=Path,
        help="a folder with one of data for each recipe, named as the recipe or its part before the first dash; "
        "default: the recipe's own data",
    )
    parser.add_argument("--seeds", type=_seeds, default=_seeds("1-10"), help="like 1-10 or 1,2,5; default 1-10")
    parser.add_argument(
        "--arms", type=_arms, default=_arms("plain,vocabulary,llm"), help=f"of {', '.join(ARMS)}; plain is always run"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="where the runs are kept")
    return parser.parse_known_args()


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} names no seeds; write for example 1-10 or 1,2,5")
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def _arms(text: str) -> list[str]:
    arms = list(dict.fromkeys(["plain", *text.split(",")]))
    if not set(arms) <= ARMS.keys():
        raise argparse.ArgumentTypeError(f"arms are {', '.join(ARMS)}")
    return arms


@contextmanager
def _proposer(arms: list[str], extra: list[str]) -> Iterator[str]:
    """The address of the bus, with a proposer process on it if an arm needs one."""
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/bus"
        if not any(arm.startswith("llm") for arm in arms):
            yield endpoint
            return
        command = [sys.executable, "-m", "proposer", "--bus.connect", endpoint, *extra]
        with (Path(folder) / "log").open("w+") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
            try:
                yield endpoint
            finally:
                ended = process.poll()
                process.terminate()
                process.wait()
            if ended is not None:
                output.seek(0)
                raise UserError(f"the proposer ended during the comparison: {output.read().strip()[-500:]}")


def _run_recipe(recipe: str, options: argparse.Namespace, extra: list[str], signals: StopSignals) -> None:
    hooks = api.Hooks(load=SharedBackbone(), signals=signals)
    for seed in options.seeds:
        for arm in options.arms:
            path = _path(recipe, arm, seed, options)
            data = ["--task.path", str(_data(options.data, recipe))] if options.data else []
            own = ["--folder", str(path.parent), "--name", path.name, "--seed", str(seed), "--no-baseline"]
            line = CommandLine("scripts/compare", "")
            settings = line.resolve(line.parse_args([recipe, *own, *data, *ARMS[arm], *extra]))
            settings = settings.model_copy(update={"threads": settings.threads or 1})  # the other core is the LLM's
            is_new = not (path / SUMMARY).exists()
            result = api.run(settings, if_exists="resume", hooks=hooks)
            if is_new:
                summary = result.summary
                print(f"{recipe} seed {seed} {arm}: test {_test(summary):.2%}, {summary['seconds']:.0f} s", flush=True)


class SharedBackbone:
    """Loads the frozen model of a recipe once; it keeps what it has encoded for all seeds and arms."""

    def __init__(self) -> None:
        self._loaded: Backbone | None = None

    def __call__(self, settings: Settings, task: Task) -> Backbone:
        """The model, for `trainer.api.Hooks`."""
        self._loaded = self._loaded or load_backbone(settings, task)
        return self._loaded


def _path(recipe: str, arm: str, seed: int, options: argparse.Namespace) -> Path:
    path: Path = options.out / recipe / f"{arm}-s{seed}"
    return path


def _data(root: Path, recipe: str) -> Path:
    """The folder in `root` that holds the recipe's data."""
    stem = recipe.partition("-")[0].lower()
    named = [path for path in sorted(root.iterdir()) if path.name.lower() == stem]
    return next((path for path in (root / recipe, *named) if path.is_dir()), root / recipe)


def _test(summary: Mapping[str, Any]) -> float:
    """What the task is measured by, on test."""
    return float(summary["test"][summary["measure"]])


def _summaries(recipe: str, arm: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    return [read_json(_path(recipe, arm, seed, options) / SUMMARY) for seed in options.seeds]


def _tests(recipe: str, arm: str, options: argparse.Namespace) -> list[float]:
    """In percent, by seed."""
    return [100 * _test(summary) for summary in _summaries(recipe, arm, options)]


def _print_recipe(recipe: str, options: argparse.Namespace) -> None:
    first = _summaries(recipe, "plain", options)
    measure = first[0]["measure"]
    told = f"{len(options.seeds)} seeds, {first[0]['steps']} lane-steps"
    print(f"\n{recipe}, {told}: percent, mean and standard deviation")
    print(f"{'':14}{'dev accuracy':>14}{f'test {measure}':>17}   test, paired difference to plain (standard error)")
    majority = [100 * summary["majority"][measure] for summary in first]
    print(f"{'majority class':14}{'':14}{_spread(majority):>17}")
    plain = _tests(recipe, "plain", options)
    for arm in options.arms:
        dev = [100 * summary["dev"]["accuracy"] for summary in _summaries(recipe, arm, options)]
        test = _tests(recipe, arm, options)
        print(f"{arm:14}{_spread(dev):>14}{_spread(test):>17}   {_difference(test, plain)}")


def _print_mean(options: argparse.Namespace) -> None:
    print(f"\nmean of {', '.join(options.recipes)}: test, and paired difference to plain")
    means = {
        arm: [
            mean(scores) for scores in zip(*(_tests(recipe, arm, options) for recipe in options.recipes), strict=True)
        ]
        for arm in options.arms
    }
    for arm, scores in means.items():
        print(f"{arm:14}{_spread(scores):>14}   {_difference(scores, means['plain'])}")


def _spread(values: list[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def _difference(values: list[float], plain: list[float]) -> str:
    gains = [value - base for value, base in zip(values, plain, strict=True)]
    error = f" ({stdev(gains) / len(gains) ** 0.5:.2f})" if len(gains) > 1 else ""
    return f"{mean(gains):+.2f}{error}"


if __name__ == "__main__":
    run_command(main)
