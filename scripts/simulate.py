"""How many proposers can one trainer use? A simulation around the real lease machine (scripts/pool_model.py).

For each way to ask and each number of proposers: leases settled per second, how often a digest finds no free proposer,
how long a proposer waits for work, the age of answers in lane-steps of one lane, the messages that the trainer has not
read at the end, bytes, and the share of a core that the trainer's thread takes. --plot draws them.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.pool_model import Figures, Pool, Simulation  # noqa: E402 - the checkout must be found first
from shared.errors import run_command  # noqa: E402

WAYS: dict[str, dict[str, Any]] = {
    "asks every 100 steps": {},
    "asks every 100 steps, ready_seconds 20": {"ready_seconds": 20.0},
    "asks at every step": {"request_every": 1},
    "asks at every step, ready_seconds 20": {"request_every": 1, "ready_seconds": 20.0},
}
"""Ways to ask for proposals, as changes of the pool."""


COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00")


@dataclass(frozen=True)
class Column:
    """A figure of the table and perhaps of the plot."""

    head: str
    form: str
    value: Callable[[Pool, Figures], float]
    title: str = ""
    """Of its axes; empty if it is not drawn."""


COLUMNS = (
    Column("settled/s", "9.2f", lambda _, found: found.settled / found.seconds, "leases settled per second"),
    Column("no one free", "11.1%", lambda _, found: found.waiting / found.due if found.due else 0.0),
    Column("proposer waits", "12.1f s", lambda _, found: _mean(found.idle), "seconds a proposer waits for work"),
    Column("age p50", "7.0f", lambda pool, found: found.age(50) / pool.step_seconds, "age of answers, lane-steps, p50"),
    Column("p90", "5.0f", lambda pool, found: found.age(90) / pool.step_seconds),
    Column("unread", "7.0f", lambda _, found: found.unread, "messages not read at the end"),
    Column("kB/s in", "8.1f", lambda _, found: sum(found.received.values()) / found.seconds / 1e3, "kB/s received"),
    Column("kB/s out", "8.1f", lambda _, found: sum(found.sent.values()) / found.seconds / 1e3, "kB/s sent"),
    Column("core", "5.1%", lambda _, found: found.thread_seconds / found.seconds),
)


def _mean(values: list[float]) -> float:
    return mean(values) if values else float("nan")


def _format(column: Column, value: float) -> str:
    form, _, unit = column.form.partition(" ")
    return f"{value:{form}}{' ' + unit if unit else ''}".rjust(len(column.head))


def draw(table: dict[str, list[tuple[int, tuple[float, ...]]]], path: Path) -> None:
    """Write the drawn columns over the number of proposers, a line for each way to ask."""
    import matplotlib as mpl

    mpl.use("Agg")  # files only; no display is needed
    from matplotlib import pyplot as plt

    drawn = [(place, column.title) for place, column in enumerate(COLUMNS) if column.title]
    style: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "1"}
    with mpl.rc_context(style):
        figure, axes = plt.subplots(2, 3, figsize=(10, 5.4), layout="constrained")
        for axis, (place, title) in zip(axes.flat, drawn, strict=True):
            for colour, marker, (way, rows) in zip(COLOURS, "osd^", table.items(), strict=True):
                axis.plot(
                    [number for number, _ in rows], [values[place] for _, values in rows],
                    color=colour, marker=marker, markersize=4, linewidth=1.4, label=way,
                )  # fmt: skip
            axis.set_xscale("log")
            axis.set_yscale("symlog", linthresh=1.0)
            axis.set_ylim(bottom=0)
            axis.set_title(title, fontsize=9, loc="left")
        for axis in axes[1]:
            axis.set_xlabel("proposers")
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def main() -> int:
    """Simulate, print, draw."""
    parser = argparse.ArgumentParser(
        prog="scripts/simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--proposers", type=int, nargs="+", default=[1, 10, 100, 1000, 3000, 10_000], help="numbers")
    parser.add_argument("--seconds", type=float, default=180.0, help="simulated; the first third is not counted")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--plot", type=Path, help="an .svg or .png to write")
    shown = [field for field in fields(Pool) if field.name not in ("proposers", "request_every", "ready_seconds")]
    for field in shown:
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default, help="of the model")
    options = parser.parse_args()
    given = {field.name: getattr(options, field.name) for field in shown}

    print("proposers  " + "  ".join(column.head for column in COLUMNS))
    table: dict[str, list[tuple[int, tuple[float, ...]]]] = {}
    for way, changes in WAYS.items():
        print(way)
        for number in options.proposers:
            pool = Pool(number, **{**given, **changes})
            found = Simulation(pool, options.seed).run(options.seconds, options.seconds / 3)
            values = tuple(column.value(pool, found) for column in COLUMNS)
            table.setdefault(way, []).append((number, values))
            print(f"{number:9}  " + "  ".join(map(_format, COLUMNS, values)), flush=True)
    if options.plot:
        draw(table, options.plot)
    return 0


if __name__ == "__main__":
    run_command(main)
