"""The simulated pool: leases are conserved, and figures move as they must."""

import pytest

from scripts.pool_model import Pool, Simulation, frame_bytes

SECONDS = 60.0
CALM = {"failures": 0.0, "loss": 0.0, "lifetime": 1e9}


def simulate(proposers, seed=0, **values):
    return Simulation(Pool(proposers, **values), seed).run(SECONDS)


@pytest.mark.parametrize("seed", range(3))
def test_every_lease_is_settled_ended_or_live_under_losses_and_crashes(seed):
    pool = {"loss": 0.05, "failures": 0.1, "lifetime": 30.0, "lease_seconds": 15.0, "timeout_seconds": 10.0}
    found = simulate(40, seed, request_every=1, **pool)
    assert all(found.ended[how] for how in ("settled", "released", "expired", "gone")), found.ended
    assert sum(found.ended.values()) + found.live == found.granted


def test_without_trouble_all_proposers_are_kept_busy_and_every_answer_counts():
    found = simulate(20, request_every=1, **CALM)
    assert found.ended["released"] == found.ended["expired"] == found.ended["gone"] == 0
    assert found.live == 20
    assert found.waiting / found.due > 0.5


def test_the_same_seed_gives_the_same_figures():
    assert simulate(30, seed=4) == simulate(30, seed=4)
    assert simulate(30, seed=4) != simulate(30, seed=5)


def test_more_proposers_settle_more_leases_and_leave_fewer_digests_waiting():
    few, many = simulate(5, request_every=1), simulate(50, request_every=1)
    assert many.settled > 5 * few.settled
    assert many.waiting < few.waiting


def test_a_trainer_that_asks_rarely_needs_few():
    few, many = simulate(50), simulate(500)
    assert many.granted == pytest.approx(few.granted, rel=0.1)
    assert many.received["ready"] > 5 * few.received["ready"]


def test_a_thread_that_reads_too_slowly_falls_behind_until_readies_are_rarer():
    slow = {"read_seconds": 1e-3, **CALM}  # a pass of 256 messages takes 0.8 s
    assert simulate(1000, **slow).unread > 5000
    assert simulate(1000, ready_seconds=20.0, **slow).unread < 500


def test_bytes_are_those_of_real_frames():
    length, found = frame_bytes(lease_seconds=120.0), simulate(10, **CALM)
    assert found.sent["work"] == found.granted * length["work"]
    assert found.received["proposal"] == found.settled * length["proposal"]
    assert 1_000 < length["work"] < 10_000
