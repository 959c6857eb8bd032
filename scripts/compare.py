"""Compare plain prompt tuning, controls and the LLM at the same lane-steps, over several seeds.

    scripts/compare agnews sst2 --data ../shared/data --seeds 1-10

Each run is kept in its own folder, so a comparison that was stopped continues with the same command. The arms llm are
the real thing: a proposer process, asked over ZeroMQ while the trainer trains. docs/compare.md describes the arms.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from shared import logs  # noqa: E402 - the checkout must be found first

logs.quiet_libraries()

from scripts.comparison import tables  # noqa: E402
from scripts.comparison.arms import ARMS, PLAIN, Arm, named, rates, with_delays  # noqa: E402
from scripts.comparison.conditions import STARTS, Condition, grid  # noqa: E402
from scripts.comparison.proposers import proposer  # noqa: E402
from scripts.comparison.results import ConditionResults, read  # noqa: E402
from scripts.comparison.runs import PlannedRun, plan  # noqa: E402
from scripts.comparison.workers import Progress, make_runs  # noqa: E402
from shared.errors import UserError, run_command  # noqa: E402
from shared.settings import Settings  # noqa: E402
from trainer.changes import refuse_differences  # noqa: E402
from trainer.report.page import REPORT, render, write  # noqa: E402
from trainer.report.run import Run  # noqa: E402
from trainer.runs.directory import CONFIG, read_settings  # noqa: E402
from trainer.runs.signals import Stopped, StopSignals  # noqa: E402

Value = TypeVar("Value")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `scripts/compare --help` explains the options")


def main() -> int:
    """Make the runs that are missing, then write the comparison."""
    options, extra = _parse()
    logs.set_up()
    if options.data and not options.data.is_dir():
        raise UserError(f"--data {options.data}: no such folder")
    conditions = grid(options.recipes, options.starts, options.shots)
    runs = {one.name: _plan(one, options, extra) for one in conditions}
    signals = StopSignals()
    try:
        with signals.installed():
            _make([run for group in runs.values() for run in group], options.jobs, extra)
    except Stopped:
        print("stopped; the same command continues from here")
        return 128 + signals.number
    rate_names = [arm.name for arm in rates(options.rates)]
    _write([read(group, rate_names) for group in runs.values()], options.out)
    return 0


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = _Parser(
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
        "default, also where the folder has none for a recipe that names a path: the recipe's own data",
    )
    parser.add_argument("--seeds", type=_seeds, default=_seeds("1-10"), help="like 1-10 or 1,2,5; default 1-10")
    parser.add_argument(
        "--arms",
        type=_list(named),
        default=_list(named)("plain,vocabulary,llm"),
        help=f"of {', '.join(ARMS)}, and plain-N, plain tuning from N starts at once; plain is always run",
    )
    parser.add_argument(
        "--rates",
        type=_list(_positive(float)),
        default=[5e-4, 1e-3, 2e-3],
        help="learning rates that plain-best is chosen from on development data, besides the recipe's own; none: leave "
        "plain-best out; default 5e-4,1e-3,2e-3",
    )
    parser.add_argument(
        "--starts", type=_list(_start), default=[], help=f"of {', '.join(STARTS)}; default: the recipe's own start"
    )
    parser.add_argument(
        "--shots", type=_list(_positive(int)), default=[], help="training examples a class, like 1,2,4,8,16"
    )
    parser.add_argument(
        "--delay",
        type=_list(_seconds),
        default=[0],
        help="seconds that the LLM sleeps before an answer, like 0,5,20,60",
    )
    parser.add_argument("--jobs", type=_positive(int), default=1, help="runs at a time; default 1")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="where runs and tables are kept")
    return parser.parse_known_args()


def _list(item: Callable[[str], Value]) -> Callable[[str], list[Value]]:
    def read_list(text: str) -> list[Value]:
        if text == "none":
            return []
        try:
            return list({part: item(part) for part in text.split(",")}.values())
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_list


def _positive(kind: type[Value]) -> Callable[[str], Value]:
    def read_number(text: str) -> Value:
        try:
            value = kind(text)  # type: ignore[call-arg]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not 0 < value < float("inf"):  # type: ignore[operator]
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return read_number


def _seconds(text: str) -> int:
    if not re.fullmatch(r"\d{1,4}", text):
        raise ValueError(f"{text!r} is not a number of seconds")
    return int(text)


def _start(text: str) -> str:
    if text not in STARTS:
        raise ValueError(f"no start {text!r}; starts are {', '.join(STARTS)}")
    return text


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} names no seeds; write for example 1-10 or 1,2,5")
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise argparse.ArgumentTypeError(f"{part}: the last seed is lower than the first")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


def _plan(condition: Condition, options: argparse.Namespace, extra: list[str]) -> list[PlannedRun]:
    """The runs of a condition; none has other settings than before."""
    base = condition.settings(extra, options.data)
    runs = plan(condition.name, base, _arms(options, base), options.seeds, options.out)
    for run in runs:
        if (run.path / CONFIG).is_file():
            refuse_differences(read_settings(run.path), run.settings, run.path)
    return runs


def _arms(options: argparse.Namespace, base: Settings) -> list[Arm]:
    """Plain tuning, plain tuning at other learning rates than the recipe's, and the arms asked for."""
    others = rates([rate for rate in options.rates if rate != base.optimizer.lr])
    asked = [arm for one in options.arms for arm in with_delays(one, options.delay)]
    return list({arm.name: arm for arm in [named(PLAIN), *others, *asked]}.values())


def _make(runs: list[PlannedRun], jobs: int, extra: list[str]) -> None:
    missing = [run for run in runs if not run.is_finished]
    progress = Progress(len(missing), jobs)
    if len(missing) < len(runs):
        print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished already", flush=True)
    for delay in [None, *sorted({run.arm.delay for run in missing if run.arm.asks})]:
        group = [run for run in missing if (run.arm.delay if run.arm.asks else None) == delay]
        if group:
            with proposer(min(jobs, len(group)), delay, extra) as endpoints:
                make_runs(group, endpoints, progress)


def _write(results: list[ConditionResults], out: Path) -> None:
    """Tables in `out`; plots and the report of its runs in each condition's folder."""
    command = shlex.join(["scripts/compare", *sys.argv[1:]])
    text = tables.markdown(results, command, ROOT)
    (out / "comparison.md").write_text(text, encoding="utf-8")
    (out / "runs.csv").write_text(tables.runs_csv(results), encoding="utf-8")
    (out / "differences.csv").write_text(tables.differences_csv(results), encoding="utf-8")
    for one in results:
        paths = {outcome.path for arm in [*one.arms, *one.rates] for outcome in arm.outcomes.values()}
        write(out / one.name / REPORT, render([Run(path) for path in sorted(paths)]))
    print(f"\n{text}\nwritten: {out}/comparison.md, runs.csv, differences.csv, and {REPORT} for each condition")
    _plot(results, out)


def _plot(results: list[ConditionResults], out: Path) -> None:
    try:
        from scripts.comparison import plots
    except ImportError:
        print("no plots: matplotlib is not installed; pip install -e .[plots]")
        return
    for one in results:
        rows = [(arm.name, arm.differences(one.reference)) for arm in one.arms if arm is not one.reference]
        plots.curves(one, out / one.name / "curves")
        plots.forest(rows, f"{one.name}: difference to {one.reference.name}", out / one.name / "differences")
    if len(results) > 1:
        first = results[0]
        rows = [
            (arm.name, tables.mean_differences(results, index))
            for index, arm in enumerate(first.arms)
            if arm is not first.reference
        ]
        plots.forest(rows, f"mean of {len(results)}: difference to {first.reference.name}", out / "differences")
    print(f"written: curves and differences as PNG and PDF in {out}")


if __name__ == "__main__":
    run_command(main)
