"""`honcho start` as users type it: real processes, the real models, the Procfile."""

import json
import re
import signal

import pytest
from forks import Fork

from scripts.harness.processes import SMALL, FreshLLM, Household, free_port, is_free, scrape, until

SUMMARY_KEYS = {"recipe", "seed", "steps", "seconds", "stalled_seconds", "dev", "test", "prompt_words", "lineage"}
PROPOSAL_KEYS = {"digests_leased", "received", "candidates", "duplicates", "scored", "trials", "adopted", "late"}


def summary(run):
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """`honcho start` of the demo with a smaller budget, to its own end."""
    budget = {"TANDEM_STEPS": "120", "TANDEM_RESTARTS__REQUEST_EVERY": "20", "TANDEM_RESTARTS__TRIAL_STEPS": "10"}
    with Household(tmp_path_factory.mktemp("demo"), **budget) as home:
        run = home.honcho("-p", str(free_port()))
        run.wait(110)
        yield home, run


def test_the_demo_ends_by_itself_with_a_table_and_status_0(demo):
    _, run = demo
    assert run.wait() == 0, run.text
    for row in ("untrained prompt", "Tandem, ", "plain prompt tuning, ", "random words, "):
        assert re.search(rf"\| {row}.*\d+\.\d%  \d\.\d+ .*\d+\.\d%  \d\.\d+", run.text), run.text
    assert "| result: " in run.text
    assert "SIGKILL" not in run.text, "honcho had to kill the proposer"
    assert "Traceback" not in run.text


def test_the_demo_uses_what_the_llm_says(demo):
    home, _ = demo
    found = summary(home.runs / "latest")
    assert found.keys() >= SUMMARY_KEYS
    assert found["proposals"].keys() >= PROPOSAL_KEYS
    assert found["recipe"] == "demo" and found["seed"] == 1 and found["steps"] == 120
    assert found["dev"].keys() == found["test"].keys() == {"loss", "accuracy"}
    assert found["proposals"]["received"] >= 1 and found["proposals"]["scored"] >= 1, found["proposals"]
    kinds = {json.loads(line)["kind"] for line in (home.runs / "latest/history.jsonl").read_text().splitlines()}
    assert kinds >= {"step", "evaluation", "digest", "candidates", "outcome"}


def test_replaying_the_demo_gives_the_same_bytes_without_a_proposer(demo):
    home, _ = demo
    first = (home.runs / "latest").resolve()
    replay = home.add(Fork, "trainer", "--replay", str(first), TANDEM_BASELINE="false")
    assert replay.wait(110) == 0, replay.text
    again = (home.runs / "latest").resolve()
    assert again != first
    for name in ("best.safetensors", "best.json"):
        assert (again / "best" / name).read_bytes() == (first / "best" / name).read_bytes(), name
    assert summary(again)["proposals"] == summary(first)["proposals"]


def test_three_proposers_get_leases_and_stopping_honcho_kills_nobody_and_the_run_can_be_resumed(tmp_path):
    base = 5000 if all(map(is_free, ports(5000))) else free_port()
    llm = FreshLLM()
    model = {"TANDEM_PROPOSER__MODEL": "ollama:stand-in", "TANDEM_PROPOSER__BASE_URL": llm.url}
    with Household(tmp_path, **SMALL, **model, TANDEM_STEPS="600", TANDEM_NUM_EVALS="30") as home:
        run = home.honcho("-c", "proposer=3", "-p", str(base))
        trainer, *proposers = ports(base)
        until(lambda: all(map(answered, proposers)), "an answer of each proposer")
        assert scrape(trainer)['tandem_trainer_leases_total{outcome="settled"}'] >= 0
        run.wait_for(r"step [4-9]\d/600")
        run.send(signal.SIGTERM)
        assert run.wait() == 143, run.text
        assert "stopped; continue with" in run.text, run.text
        assert all(f"{name} stopped" in run.text for name in ("trainer.1", "proposer.1", "proposer.3")), run.text
        assert "SIGKILL" not in run.text, run.text
        stopped = (home.runs / "latest").resolve()
        assert not (stopped / "summary.json").exists()

        resumed = home.add(Fork, "trainer", "--resume", str(stopped))
        assert resumed.wait() == 0, resumed.text
        assert summary(stopped)["steps"] == 600
        assert summary(stopped)["proposals"]["received"] >= 3
    llm.stop()


def ports(base):
    """What honcho gives to a trainer and three proposers."""
    return (base, base + 100, base + 101, base + 102)


def answered(port):
    return scrape(port).get('tandem_proposer_llm_requests_total{outcome="ok"}', 0) >= 1
