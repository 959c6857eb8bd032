"""A trainer that is killed at any moment goes on from its checkpoint, to the weights of a run left alone.

`KILLS=50 scripts/test tests/processes/test_kills.py` kills it more often than the suite has time for.
"""

import json
import os
import random
import signal
import time
from collections import Counter

import pytest
import torch
from forks import Fork, Household, load_libraries
from safetensors.torch import load_file

from scripts.harness.processes import SMALL, FreshLLM

KILLS = int(os.environ.get("KILLS", "3"))
SEED = int(os.environ.get("KILLS_SEED", "1"))
"""Draws the moments."""

LANE_STEPS = 160

SHORT = SMALL | {
    "TANDEM_STEPS": str(LANE_STEPS),
    "TANDEM_NUM_EVALS": "16",
    "TANDEM_RESTARTS__MAX_CHALLENGERS": "2",
}


class Lives:
    """Runs in one folder, and trainers that work on them."""

    def __init__(self, folder, **environment):
        self.runs = folder / "runs"
        self.folder = folder
        self.environment = SHORT | {"TANDEM_FOLDER": str(self.runs)} | environment
        self.count = 0

    def begin(self, *arguments):
        self.count += 1
        return Fork(self.folder / f"life-{self.count}.log", "trainer", *arguments, **self.environment)

    def complete(self, *arguments):
        """Seconds that a trainer takes that is left alone."""
        began = time.monotonic()
        trainer = self.begin(*arguments)
        assert trainer.wait() == 0, trainer.text
        return time.monotonic() - began

    def kill(self, name, draw, seconds, kills):
        """Kill a run's trainers up to `kills` times at moments drawn from `seconds`; then let one finish. The kills."""
        run = self.runs / name
        done = 0
        while done < kills and not (run / "summary.json").exists():
            trainer = self.begin(*self.arguments(name))
            time.sleep(draw.uniform(0, seconds))
            if not trainer.ended:
                trainer.send(signal.SIGKILL)
            done += trainer.wait() < 0
            assert "Traceback" not in trainer.text and "error" not in trainer.text, trainer.text
        if not (run / "summary.json").exists():
            self.complete(*self.arguments(name))
        return done

    def arguments(self, name):
        """Resume the run; begin it where the process was killed before it had settings."""
        return ("--name", name, "--if-exists", "resume")


def events(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def same_weights(one, other):
    first, second = (load_file(run / "best/best.safetensors") for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def check_history(run):
    """Every step and evaluation stands in it once, to the end; the words of its trials."""
    found = events(run)
    kinds = Counter(event["kind"] for event in found)
    assert kinds["started"] == 1 and kinds["ended"] == 1
    for kind in ("step", "evaluation"):
        steps = [event["step"] for event in found if event["kind"] == kind]
        assert steps == sorted(set(steps))
    assert found[-1]["step"] == LANE_STEPS
    entries = [json.loads(line)["sequence"] for line in (run / "record.jsonl").read_text().splitlines()]
    assert entries == list(range(len(entries)))
    return [event["words"] for event in found if event["kind"] == "trial"]


@pytest.fixture(scope="module", autouse=True)
def libraries():
    load_libraries()


@pytest.mark.timeout(120 + 20 * KILLS)
@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_run_that_is_killed_again_and_again_ends_as_one_left_alone_and_is_replayed(tmp_path, mode):
    draw = random.Random(SEED)
    lives = Lives(tmp_path, TANDEM_RESTARTS__SOURCE="vocabulary", TANDEM_RESTARTS__MODE=mode)
    seconds = lives.complete("--name", "alone")
    trials = check_history(lives.runs / "alone")
    kills = KILLS if mode == "async" else 1
    number = done = 0
    while done < kills:
        number += 1
        done += lives.kill(f"killed-{number}", draw, seconds, kills - done)
        run = lives.runs / f"killed-{number}"
        assert trials and check_history(run) == trials
        assert same_weights(run, lives.runs / "alone")
    lives.complete("--replay", str(run), "--name", "replayed")
    assert same_weights(lives.runs / "replayed", run)
    print(f"{done} kills in {number} runs of {seconds:.1f} s, {lives.count} processes")


@pytest.mark.timeout(120 + 20 * KILLS)
def test_the_replay_of_a_killed_run_with_proposers_has_its_weights(tmp_path):
    draw = random.Random(SEED)
    llm = FreshLLM()
    with Household(tmp_path, **SMALL) as home:
        home.asking(llm)
        lives = Lives(tmp_path, **home.environment)
        seconds = lives.complete("--name", "alone")
        done = lives.kill("killed", draw, seconds / 2, max(1, KILLS // 5))
        assert check_history(lives.runs / "killed")
        assert done
    lives.complete("--replay", str(lives.runs / "killed"), "--name", "replayed")
    assert same_weights(lives.runs / "replayed", lives.runs / "killed")
