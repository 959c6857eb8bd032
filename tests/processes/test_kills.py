"""A trainer that is killed at any moment goes on from its checkpoint, to the weights of a run left alone.

`KILLS=50 scripts/test tests/processes/test_kills.py` kills it more often than the suite has time for.
"""

import json
import os
import random
import signal
import time

import pytest
import torch
from conftest import run_program
from forks import Household
from safetensors.torch import load_file

from scripts.harness.processes import SMALL
from trainer.command import main

KILLS = int(os.environ.get("KILLS", "3"))
SEED = int(os.environ.get("KILLS_SEED", "1"))
"""Draws the moments."""

SHORT = {
    "TANDEM_STEPS": "240",
    "TANDEM_NUM_EVALS": "24",
    "TANDEM_RESTARTS__SOURCE": "vocabulary",
    "TANDEM_RESTARTS__MAX_CHALLENGERS": "2",
}


def events(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def same_weights(one, other):
    first, second = (load_file(run / "best/best.safetensors") for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.timeout(120 + 30 * KILLS)
@pytest.mark.parametrize(("mode", "kills"), [("async", KILLS), ("sync", 1)])
def test_a_run_that_is_killed_again_and_again_ends_as_one_left_alone_and_is_replayed(
    tmp_path, monkeypatch, mode, kills
):
    draw = random.Random(SEED)
    with Household(tmp_path, **SMALL, **SHORT, TANDEM_RESTARTS__MODE=mode) as home:
        for name, value in home.environment.items():
            monkeypatch.setenv(name, value)
        assert run_program(main, "--name", "alone").status == 0
        pace = [event["time"] for event in events(home.runs / "alone")]
        for number in range(kills):
            arguments = ["--name", "killed"] if number == 0 else ["--resume", str(home.runs / "killed")]
            trainer = home.trainer(*arguments)
            trainer.wait_for(r"step \d+/240|result: ")
            time.sleep(draw.uniform(0, (pace[-1] - pace[0]) * 1.5 / kills))
            trainer.send(signal.SIGKILL)
            trainer.wait()
            if (home.runs / "killed" / "summary.json").exists():
                break
        else:
            last = run_program(main, "--resume", home.runs / "killed")
            assert last.status == 0, last
        assert run_program(main, "--replay", home.runs / "killed", "--name", "replayed").status == 0
        killed = home.runs / "killed"
        found = events(killed)
        assert [event["kind"] for event in found].count("resumed") >= 1
        steps = [event["step"] for event in found if event["kind"] == "step"]
        assert steps == sorted(set(steps)) and steps[-1] == 240
        evaluations = [event["step"] for event in found if event["kind"] == "evaluation"]
        assert evaluations == sorted(set(evaluations))
        words = [event["words"] for event in found if event["kind"] == "trial"]
        assert words and words == [e["words"] for e in events(home.runs / "alone") if e["kind"] == "trial"]
        assert same_weights(killed, home.runs / "alone")
        assert same_weights(killed, home.runs / "replayed")
