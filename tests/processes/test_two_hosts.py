"""A trainer on one host and three proposers on another, CURVE between them, over a link that is slow and is cut."""

import json
import os
import sys
import time

import pytest
from conftest import run_program

from bus import keys
from scripts.harness.processes import SMALL, Household

CUT_SECONDS = float(os.environ.get("CUT_SECONDS", "8"))
"""How long the link is cut: more than the 6 s after which TCP gives a connection up. `CUT_SECONDS=20 scripts/test
tests/processes/test_two_hosts.py` cuts it for longer than the suite has time for."""

PROPOSERS = 3
STEPS = 100

LLM = f"""
import time
from scripts.harness.processes import FreshLLM

llm = FreshLLM()
print(llm.url, flush=True)
while len(llm.requests) < {PROPOSERS}:
    time.sleep(0.02)
llm.delay = 3.0  # leases are in hand when the link is cut
while len(llm.requests) == {PROPOSERS}:
    time.sleep(0.02)
print("asked again", flush=True)
time.sleep(600)
"""

SETTINGS = {
    "TANDEM_STEPS": str(STEPS),
    "TANDEM_RESTARTS__MODE": "sync",  # a run that waits for proposals cannot end before the link is back
    "TANDEM_RESTARTS__SYNC_WAIT_SECONDS": "100",
    "TANDEM_RESTARTS__EPOCHS": "[5, 10, 15, 20, 25]",  # more rounds than the answers before the cut could end
    "TANDEM_RESTARTS__TRIAL_STEPS": "5",
    "TANDEM_BUS__READY_SECONDS": "0.4",
}


@pytest.fixture
def bus(tmp_path, two_hosts):
    """The settings of the bus for a trainer and for proposers, with keys made as docs/deploy.md says."""
    folder = tmp_path / "keys"
    for line in ("new trainer lab", "new proposer gpu1", "allow gpu1"):
        assert run_program(keys.main, "--folder", folder, *line.split()).status == 0
    endpoint = f"tcp://{two_hosts.address}:5777"
    trainer = {
        "TANDEM_BUS__BIND": endpoint,
        "TANDEM_BUS__SECRET_KEY": f"{folder}/lab.secret",
        "TANDEM_BUS__ALLOWED_KEYS": f"{folder}/allowed",
    }
    proposer = {
        "TANDEM_BUS__CONNECT": endpoint,
        "TANDEM_BUS__SECRET_KEY": f"{folder}/gpu1.secret",
        "TANDEM_BUS__TRAINER_KEYS": f"{folder}/lab.public",
    }
    return trainer, proposer


@pytest.mark.timeout(240)  # five processes start
@pytest.mark.parametrize("discipline", ["tbf rate 256kbit burst 16kb latency 2s", "netem delay 200ms 50ms loss 2%"])
def test_a_run_over_a_slow_link_that_is_cut_ends_with_all_its_lane_steps(two_hosts, bus, tmp_path, discipline):
    here, there = two_hosts.names
    two_hosts.slow(*discipline.split())
    with Household(tmp_path, **{**SMALL, **SETTINGS}) as home:
        python = sys.executable
        llm = home.start(*two_hosts.at(there), python, "-c", LLM)
        asking = ("--model", "ollama:stand-in", "--proposer.base_url", llm.wait_for("http://.+")[0])
        pool = [home.start(*two_hosts.at(there), python, "-m", "proposer", *asking, **bus[1]) for _ in range(PROPOSERS)]
        trainer = home.start(*two_hosts.at(here), python, "-m", "trainer", "demo", **bus[0])
        llm.wait_for("asked again")
        trainer.wait_for("(answered the request of step 5:(.|\n)*){3}")
        two_hosts.cut()
        time.sleep(CUT_SECONDS)
        two_hosts.join()
        assert trainer.wait() == 0, trainer.text
        for proposer in pool:
            assert proposer.text.count("connected to tcp://") == 2, proposer.text
    run = home.runs / "latest"
    assert json.loads((run / "history.jsonl").read_text().splitlines()[-1])["step"] == STEPS
    check_leases([json.loads(line)["event"] for line in (run / "record.jsonl").read_text().splitlines()])


def check_leases(record):
    """Every lease ended at most once, some with the link; others were answered when it was back."""
    leased = [lease for event in record if event["kind"] == "leased" for lease in event["leases"]]
    ends = [event for event in record if event["kind"] in ("proposal", "ended")]
    assert len({event["lease"] for event in ends}) == len(ends) and {event["lease"] for event in ends} <= set(leased)
    gone = [index for index, event in enumerate(ends) if event.get("how") == "gone"]
    assert gone
    assert "proposal" in [event["kind"] for event in ends[gone[-1] :]]
