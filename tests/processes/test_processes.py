"""Trainers and proposers that come late, stop, hang and are killed: real processes on a real bus."""

import json
import os
import signal
import socket
import time

import pytest
from forks import Household

from scripts.harness.processes import SMALL, FreshLLM, free_port, scrape, until

EARLY_SECONDS = float(os.environ.get("EARLY_SECONDS", "5"))
"""How long a proposer waits for its trainer; `EARLY_SECONDS=30 scripts/test tests/processes/test_processes.py` waits
longer than the suite has time for."""

STOPPED_SECONDS = 10.0
"""More than the 6 s after which TCP gives a peer up that acknowledges nothing."""


def summary(run):
    return json.loads((run / "summary.json").read_text())


def events(run, kind):
    found = map(json.loads, (run / "history.jsonl").read_text().splitlines())
    return [event for event in found if event["kind"] == kind]


# One proposer is killed while it holds a lease, one works, one joins late


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    """The run, its trainer, the end of the lost lease, and the LLMs of the proposers that worked."""
    hanging, working, late = FreshLLM(), FreshLLM(), FreshLLM()
    hanging.delay = 600.0
    port = free_port()
    quick = {"TANDEM_STEPS": "600", "TANDEM_BUS__READY_SECONDS": "0.4", "TANDEM_BUS__LEASE_SECONDS": "5"}
    with Household(tmp_path_factory.mktemp("troubled"), **SMALL, **quick) as home:
        victim = home.asking(hanging)
        home.asking(working)
        trainer = home.trainer(PORT=str(port))
        until(lambda: hanging.requests, "a lease for the proposer that hangs")
        victim.send(signal.SIGKILL)
        home.asking(late)
        lost = until(lambda: lost_leases(port) or trainer.ended, "the end of the lost lease")
        trainer.wait()
        yield home.runs / "latest", trainer, lost, working, late


def lost_leases(port):
    samples = scrape(port)
    return sum(samples.get(f'tandem_trainer_leases_total{{outcome="{how}"}}', 0.0) for how in ("gone", "expired"))


def tried(run):
    return {event["words"] for event in events(run, "trial")}


def test_killing_a_proposer_mid_lease_leaves_a_run_that_uses_the_others(troubled):
    run, trainer, lost, working, _ = troubled
    assert trainer.wait() == 0, trainer.text
    assert lost == 1.0
    assert tried(run) & set(working.said)
    assert summary(run)["steps"] == 600
    assert summary(run)["proposals"]["digests_leased"] > summary(run)["proposals"]["received"]


def test_a_proposer_that_starts_late_is_leased_work(troubled):
    run, trainer, _, _, late = troubled
    assert trainer.wait() == 0, trainer.text
    assert tried(run) & set(late.said)


# A proposer is there long before the trainer, which is then stopped for a while


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The run, its trainer, when it was stopped and when it went on, and the LLM's requests before and in all."""
    llm = FreshLLM()
    with Household(tmp_path_factory.mktemp("interrupted"), **SMALL, TANDEM_STEPS="500") as home:
        proposer = home.asking(llm)
        time.sleep(EARLY_SECONDS)
        assert not proposer.ended, proposer.text
        trainer = home.trainer()
        until(lambda: llm.requests, "work for the proposer")
        trainer.send(signal.SIGSTOP)
        time.sleep(1.0)  # what was under way is answered by then
        before, stopped = len(llm.requests), time.time()
        time.sleep(STOPPED_SECONDS - 1.0)
        away = stopped, time.time()
        trainer.send(signal.SIGCONT)
        trainer.wait()
        yield home.runs / "latest", trainer, away, before, len(llm.requests)


def test_a_proposer_that_starts_long_before_the_trainer_is_used(interrupted):
    run, trainer, _, before, _ = interrupted
    assert trainer.wait() == 0, trainer.text
    assert before >= 1
    assert summary(run)["proposals"]["scored"] >= 1


def test_a_trainer_that_is_stopped_for_a_while_goes_on_with_its_proposer(interrupted):
    run, trainer, (stopped, continued), before, in_all = interrupted
    assert trainer.wait() == 0, trainer.text
    assert summary(run)["steps"] == 500
    assert in_all > before
    steps = events(run, "step")
    assert not [event for event in steps if stopped < event["time"] < continued]
    resumed = max((event["step"] for event in steps if event["time"] < stopped), default=0)
    assert [event for event in events(run, "candidates") if event["step"] > resumed + 1]


# Plain tuning, stopped in every way and resumed, and the same run left alone


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """How often-stopped and undisturbed ended: statuses and runs."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    alone = {"TANDEM_RESTARTS__POLICY": "none", "TANDEM_STEPS": "300"}
    with taken, Household(tmp_path_factory.mktemp("plain"), **SMALL, **alone) as home:
        undisturbed = home.trainer("--name", "undisturbed", PORT=str(taken.getsockname()[1]))
        statuses = []
        trainer = home.trainer("--name", "stopped")
        for number, place in ((signal.SIGTERM, 60), (signal.SIGINT, 120), (signal.SIGKILL, 210)):
            trainer.wait_for(f"step {place}/300")
            trainer.send(number)
            statuses.append(trainer.wait())
            assert not (home.runs / "stopped/summary.json").exists(), trainer.text
            trainer = home.trainer("--resume", str(home.runs / "stopped"))
        statuses.append(trainer.wait())
        undisturbed.wait()
        yield statuses, undisturbed, home.runs


def test_a_stopped_trainer_ends_with_the_signals_status(plain):
    statuses, _, _ = plain
    assert statuses == [143, 130, -signal.SIGKILL, 0]


def test_a_resumed_run_ends_exactly_at_the_budget(plain):
    _, _, runs = plain
    assert summary(runs / "stopped")["steps"] == 300


def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(plain):
    _, undisturbed, runs = plain
    assert undisturbed.wait() == 0, undisturbed.text
    for name in ("best.safetensors", "best.json"):
        assert (runs / "stopped/best" / name).read_bytes() == (runs / "undisturbed/best" / name).read_bytes(), name
    for key in ("dev", "test", "members", "lineage"):
        assert summary(runs / "stopped")[key] == summary(runs / "undisturbed")[key]


def test_a_finished_run_is_not_resumed(plain, tmp_path):
    _, _, runs = plain
    with Household(tmp_path) as home:
        again = home.trainer("--resume", str(runs / "stopped"))
        assert again.wait() == 2
        assert again.text.startswith("error: ") and "is finished" in again.text and again.text.count("\n") == 1


# Ports that are in use


def test_a_metrics_port_in_use_does_not_end_the_run(plain):
    _, undisturbed, _ = plain
    assert undisturbed.wait() == 0
    assert "warning: metrics: cannot serve on 127.0.0.1 port" in undisturbed.text


def test_a_bus_port_in_use_ends_the_trainer_with_one_line_and_no_folder(tmp_path):
    with socket.socket() as taken, Household(tmp_path, **SMALL) as home:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        trainer = home.trainer("--bus.bind", address)
        assert trainer.wait() == 2
        (error,) = [line for line in trainer.text.splitlines() if line.startswith("error: ")]
        assert error.startswith(f"error: bus.bind: {address} is in use")
        assert "Traceback" not in trainer.text
        assert not any(home.runs.iterdir())
