"""Several ranks train as one process does, stop and fail together, and any number of them continues a run."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from forks import Household
from safetensors.torch import load_file
from small_encoders import save_small_encoder

from scripts.harness.processes import ROOT, SMALL, until

SETTINGS = {
    "TANDEM_STEPS": "60",
    "TANDEM_NUM_EVALS": "6",
    "TANDEM_OPTIMIZER__BATCH_SIZE": "7",  # of 16 rows: the last batch of an epoch has two, and ranks unequal shares
    "TANDEM_RESTARTS__SOURCE": "vocabulary",
    "TANDEM_RESTARTS__MODE": "sync",
    "TANDEM_RESTARTS__MAX_CHALLENGERS": "2",
}


def best(home, name):
    return load_file(home.runs / name / "best/best.safetensors")


def events(home, name, kind):
    lines = (home.runs / name / "history.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def rank_of(pid):
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((int(one[5:]) for one in variables if one.startswith(b"RANK=")), None)


def is_running(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.timeout(400)
def test_two_ranks_find_what_one_process_finds_and_a_replay_on_two_is_the_same_bit_for_bit(tmp_path):
    with Household(tmp_path, **SMALL, **SETTINGS) as home:
        alone = home.trainer("--name", "alone")
        assert alone.wait() == 0, alone.text
        both = home.ranks(2, "--name", "both")
        assert both.wait() == 0, both.text
        replayed = home.ranks(2, "--replay", str(home.runs / "both"), "--name", "replayed", launcher="accelerate")
        assert replayed.wait() == 0, replayed.text

        torch.testing.assert_close(best(home, "both"), best(home, "alone"), atol=1e-5, rtol=0)
        assert all(torch.equal(value, best(home, "both")[name]) for name, value in best(home, "replayed").items())
        for kind, key in (("trial", "words"), ("outcome", "outcome"), ("step", "step"), ("evaluation", "step")):
            found = [[event[key] for event in events(home, name, kind)] for name in ("alone", "both", "replayed")]
            assert found[0] == found[1] == found[2] and found[0]
        losses = [[event["train_losses"] for event in events(home, name, "step")] for name in ("alone", "both")]
        for one, two in zip(*losses, strict=True):
            torch.testing.assert_close(torch.tensor(two), torch.tensor(one), atol=1e-4, rtol=0)
        assert both.text.count("result: ") == 1  # rank 0 alone has the terminal
        assert sorted(path.name for path in home.runs.iterdir()) == ["alone", "both", "latest", "replayed"]


@pytest.mark.timeout(400)
def test_ranks_stop_together_and_a_run_that_lost_one_continues_on_another_number(tmp_path):
    encoder = {
        "TANDEM_BACKBONE__FAMILY": "encoder",
        "TANDEM_BACKBONE__PATH": save_small_encoder("bert", tmp_path),
        "TANDEM_PROMPT__WORDS": "apple pear",
        "TANDEM_STEPS": "20000",
        "TANDEM_NUM_EVALS": "200",
        "TANDEM_RESTARTS__REQUEST_EVERY": "1000",
    }
    with Household(tmp_path, **{**SMALL, **SETTINGS, **encoder}) as home:
        ranks = home.ranks(2, "--name", "cut")
        ranks.wait_for(r"step 300/")
        ranks.send(signal.SIGTERM)
        ranks.wait()
        assert ranks.text.count("stopped; continue with:") == 1
        (stopped,) = events(home, "cut", "stopped")
        assert stopped["reason"] == "SIGTERM" and stopped["step"] == events(home, "cut", "step")[-1]["step"] < 20000

        ranks = home.ranks(2, "--resume", str(home.runs / "cut"))
        until(lambda: events(home, "cut", "step")[-1]["step"] > stopped["step"] + 500, "steps after the resume")
        (resumed,) = events(home, "cut", "resumed")
        assert resumed["step"] == stopped["step"]
        pids = ranks.children()
        (second,) = [pid for pid in pids if rank_of(pid) == 1]
        os.kill(second, signal.SIGKILL)
        ranks.wait()
        (line,) = [line for line in ranks.text.splitlines() if line.startswith("error: ")]
        assert "another rank ended" in line and f"--resume {home.runs / 'cut'}" in line
        until(lambda: not any(map(is_running, pids)), "the end of the other rank")

        reached = events(home, "cut", "step")[-1]["step"]
        alone = home.trainer("--resume", str(home.runs / "cut"))
        until(lambda: len(events(home, "cut", "resumed")) == 2, "the resume on one rank")
        until(lambda: events(home, "cut", "step")[-1]["step"] > reached, "steps on one rank")
        alone.send(signal.SIGTERM)
        assert alone.wait() == 128 + signal.SIGTERM, alone.text
        steps = [event["step"] for event in events(home, "cut", "step")]
        assert steps == sorted(set(steps))


EXCHANGES = """
import torch

from shared.errors import UserError
from trainer import ranks

ranks.join()
number, rows = ranks.number(), torch.arange(12.0).view(4, 3)
for total in (1, 2, 4):  # fewer rows than ranks, and shares of unequal size
    taken, weight = ranks.share(total)
    part = rows[:total][taken].clone().requires_grad_()
    whole = ranks.gather(2 * part, total)
    assert torch.equal(whole, 2 * rows[:total]), (number, total, whole)
    (whole * (number + 1)).sum().backward()  # each rank has a loss of its own, 1 + 2 + 3 times the sum
    assert torch.equal(part.grad, torch.full_like(part, 12.0 if weight else 0.0)), (number, total, part.grad)
    weights = torch.tensor([weight])
    ranks.all_reduce([weights])
    assert abs(weights.item() - 1) < 1e-6

assert ranks.broadcast({"from": number}) == {"from": 0}

seen = []
for failing in ([1], [2, 1], [0]):
    try:
        with ranks.agreed():
            if number in failing:
                raise UserError(f"fault of {number}")
            ranks.gather(rows[ranks.share(4)[0]], 4)  # the others learn of it here, or at the end of the block
    except UserError as error:
        seen.append(str(error))
with ranks.agreed():
    pass
assert seen[2] == "fault of 0" and seen[0] == seen[1], seen
assert seen[0] == ("fault of 1" if number == 1 else "rank 1: fault of 1"), seen
ranks.leave()
assert ranks.count() == 1 and ranks.is_main()
print("passed", number, flush=True)
"""


def test_what_ranks_exchange(tmp_path):
    script = tmp_path / "exchanges.py"
    script.write_text(EXCHANGES)
    with Household(tmp_path) as home:
        launcher = str(Path(sys.executable).with_name("torchrun"))
        three = home.start(launcher, "--standalone", "--nproc-per-node", "3", str(script), PYTHONPATH=str(ROOT))
        assert three.wait() == 0, three.text
        assert three.text.count("passed") == 3
