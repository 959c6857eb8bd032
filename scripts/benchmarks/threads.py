"""Seconds of a whole run with the embedded LLM on the same cores, by threads of the trainer, in turns."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

from scripts.harness.processes import Household


def measure(options: argparse.Namespace) -> None:
    """Print the training seconds with the default and with each number of threads, as medians of the rounds.

    One proposer serves all runs. In async mode the LLM computes while the trainer does.
    """
    ways = [None, *range(1, (os.cpu_count() or 1) + 1)]
    seconds: dict[int | None, list[float]] = {threads: [] for threads in ways}
    with tempfile.TemporaryDirectory() as folder, Household(Path(folder)) as home:
        home.proposer("--model", "embedded").wait_for("waits for work")
        for number in range(options.rounds):
            for threads in ways:
                name = f"threads-{threads}-{number}"
                chosen = [] if threads is None else ["--threads", str(threads)]
                trainer = home.start(
                    *("env", "-u", "TANDEM_THREADS", sys.executable, "-m", "trainer", *options.run),
                    *("--name", name, "--seed", str(number + 1), "--no-baseline", *chosen),
                )
                if trainer.wait(600):
                    raise AssertionError(f"the run ended with an error:\n{trainer.text}")
                summary = json.loads((home.runs / name / "summary.json").read_text())
                if not summary["proposals"]["scored"]:
                    raise AssertionError("the LLM did not answer within the run; take more steps")
                seconds[threads].append(summary["seconds"])
    best = min(median(found) for threads, found in seconds.items() if threads)
    print(f"{' '.join(options.run)} with the embedded LLM, {os.cpu_count()} cores")
    for threads, found in seconds.items():
        each = " ".join(f"{one:.1f}" for one in found)
        print(f"threads {threads or 'default'}: {median(found):6.2f} s   (rounds: {each})")
    print(f"the best hand-set number by the default: {best / median(seconds[None]):.2f}")
