"""One pool of proposers serves two trainers, while one of each is killed."""

import json
import signal

from forks import Household

from bus.record import Ended, Leased, read
from scripts.harness.processes import SMALL, FreshLLM, until


def leases(run):
    """The leases of a run's record, and those that ended."""
    granted, ended = [], []
    for entry in read(run / "record.jsonl"):
        if isinstance(entry.event, Leased):
            granted += entry.event.leases
        elif isinstance(entry.event, Ended) or entry.event.kind == "proposal":
            ended.append(entry.event.lease)
    return granted, ended


def events(run, kind):
    found = map(json.loads, (run / "history.jsonl").read_text().splitlines())
    return [event for event in found if event["kind"] == kind]


def test_three_proposers_serve_two_trainers_and_one_of_each_is_killed(tmp_path):
    llm = FreshLLM()
    llm.delay = 0.3  # so that leases are live when the processes are killed
    quick = {"TANDEM_BUS__READY_SECONDS": "0.3", "TANDEM_BUS__LEASE_SECONDS": "5", "TANDEM_STEPS": "500"}
    binds = [f"ipc://{tmp_path}/bus{number}" for number in (1, 2)]
    with Household(tmp_path, **SMALL, **quick, TANDEM_BUS__CONNECT=json.dumps(binds)) as home:
        victim = home.asking(llm)
        home.asking(llm)
        home.asking(llm)
        trainers = [
            home.trainer("--name", name, TANDEM_BUS__BIND=bind)
            for name, bind in zip(("kept", "killed"), binds, strict=True)
        ]
        for trainer in trainers:
            trainer.wait_for("answered the request")
        asked = len(llm.requests)
        until(lambda: len(llm.requests) > asked, "a request to the LLM")
        victim.send(signal.SIGKILL)
        trainers[1].wait_for(r"step 1[5-9]\d/")
        trainers[1].send(signal.SIGKILL)
        assert trainers[1].wait() == -signal.SIGKILL
        again = home.trainer("--resume", str(home.runs / "killed"), TANDEM_BUS__BIND=binds[1])
        for trainer in (trainers[0], again):
            assert trainer.wait() == 0, trainer.text
        for name in ("kept", "killed"):
            run = home.runs / name
            steps = [event["step"] for event in events(run, "step")]
            assert steps == sorted(set(steps)) and steps[-1] == 500
            granted, ended = leases(run)
            assert sorted(granted) == sorted(ended)
            assert len(set(granted)) == len(granted)
            proposals = events(run, "proposal")
            assert len(proposals) >= 3
        resumed = events(home.runs / "killed", "resumed")[0]["time"]
        assert any(event["time"] > resumed for event in events(home.runs / "killed", "proposal"))
    llm.stop()
