"""/metrics and /healthz of a trainer and a proposer at work, as Prometheus sees them."""

import json
import signal
import time
from types import SimpleNamespace

import pytest
from forks import Household

from scripts.harness.processes import SMALL, free_port, get, scrape, until


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """Samples and health of both, looked at again and again until the run ended, and of the proposer after it."""
    ports = SimpleNamespace(trainer=free_port(), proposer=free_port())
    seen = SimpleNamespace(trainer=[], proposer=[], trainer_health=[], proposer_health=[])
    with Household(tmp_path_factory.mktemp("live"), **SMALL, TANDEM_STEPS="400") as home:
        proposer = home.proposer(PORT=str(ports.proposer))
        proposer.wait_for("waits for work")
        trainer = home.trainer(PORT=str(ports.trainer))
        until(lambda: scrape(ports.trainer), "the trainer's metrics")
        while not trainer.ended:
            for name in ("trainer", "proposer"):
                samples, health = scrape(getattr(ports, name)), get(getattr(ports, name), "/healthz")
                if samples and health[0]:
                    getattr(seen, name).append(samples)
                    getattr(seen, f"{name}_health").append(health)
            time.sleep(0.1)
        seen.status, seen.text = trainer.wait(), trainer.text
        seen.left = until(lambda: abandoned(ports.proposer), "the proposer noticing that the trainer has ended")
        seen.left_health = get(ports.proposer, "/healthz")
        seen.lost = get(ports.proposer, "/metric")
        proposer.send(signal.SIGTERM)
        seen.proposer_status = proposer.wait()
        yield seen


def abandoned(port):
    samples = scrape(port)
    return samples if samples["tandem_proposer_connected_trainers"] == 0.0 else None


def most(series, name):
    return max(samples[name] for samples in series)


def test_the_trainers_series_move(live):
    assert live.status == 0, live.text
    first, last = live.trainer[0], live.trainer[-1]
    for name in ("steps_total", "lane_steps_total", "step_seconds_count", "bus_seconds_count"):
        assert last[f"tandem_trainer_{name}"] > first[f"tandem_trainer_{name}"], name
    assert last["tandem_trainer_lane_steps_total"] <= 400
    for name in ("digests_total", "staleness_steps_count", 'leases_total{outcome="settled"}', "peers", "lanes"):
        assert most(live.trainer, f"tandem_trainer_{name}") >= 1, name
    outcomes = {name: value for name, value in last.items() if name.startswith("tandem_trainer_candidates_total{")}
    assert sum(outcomes.values()) >= 1 and outcomes['tandem_trainer_candidates_total{outcome="other"}'] == 0
    assert last['tandem_trainer_loss{split="dev"}'] > 0 and last['tandem_trainer_loss{split="train"}'] > 0


def test_the_proposers_series_move(live):
    for name in ('llm_requests_total{outcome="ok"}', "candidates_total", 'tokens_total{direction="out"}'):
        assert live.left[f"tandem_proposer_{name}"] >= 1, name
    assert live.left['tandem_proposer_llm_request_seconds_count{outcome="ok"}'] >= 1
    assert live.left["tandem_proposer_busy_seconds_total"] > 0
    assert live.left["tandem_proposer_idle_seconds_total"] > live.proposer[0]["tandem_proposer_idle_seconds_total"]
    assert most(live.proposer, "tandem_proposer_connected_trainers") == 1


def test_both_say_that_they_are_well(live):
    for status, body in (*live.trainer_health, *live.proposer_health, live.left_health):
        assert (status, json.loads(body)["status"]) in ((200, "ok"), (503, "ending")), body
    assert live.trainer_health[0][0] == live.left_health[0] == 200


def test_every_series_is_documented_by_its_prefix_and_none_is_noise(live):
    for name in (*live.trainer[-1], *live.left):
        assert name.startswith(("tandem_", "process_")), name
        assert "_created" not in name


def test_other_pages_are_not_there(live):
    assert live.lost[0] == 404


def test_a_proposer_outlives_its_trainer_and_ends_at_a_signal(live):
    assert live.proposer_status == 0
