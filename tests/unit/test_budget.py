"""What requests may cost: the pure budget with a clock passed in, and its file."""

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from proposer.budget import MAX_RUNS, Budget, State
from proposer.ledger import BudgetReached, Ledger
from shared.errors import UserError
from shared.settings import BudgetSettings

NOW = 1_800_000_000.0


def budget(**limits):
    return Budget(BudgetSettings(**limits))


def spend(budget, run="r", now=NOW, tokens=(70, 20)):
    budget.settle(budget.start(run, now), *tokens)


def test_without_limits_all_may_start():
    free = budget()
    for _ in range(100):
        spend(free)
    assert free.refusal("r", NOW) is None


def test_what_is_left_is_the_smallest_share_of_any_limit():
    assert budget().left(["r"], NOW) == 1.0
    limited = budget(requests=10, tokens=1000, cost_per_hour=0.01, price_in=100)
    assert limited.left(["r"], NOW) == 1.0
    spend(limited, tokens=(7, 300))
    assert limited.left(["r"], NOW) == pytest.approx(1 - 307 / 1000)
    assert limited.left(["another"], NOW) == pytest.approx(1 - 7 * 100 / 1e6 / 0.01)
    for _ in range(9):
        spend(limited, tokens=(0, 0))
    assert limited.left(["another", "r"], NOW) == 0.0
    assert limited.left([], NOW + 7200) == 1.0


def test_requests_are_limited_by_run():
    limited = budget(requests=2)
    spend(limited)
    assert limited.refusal("r", NOW) is None
    limited.start("r", NOW)  # one under way counts
    assert limited.refusal("r", NOW) == "2 of 2 requests for run r"
    assert limited.refusal("r", NOW + 1e6) is not None
    assert limited.refusal("another", NOW) is None
    assert limited.refusal(None, NOW) is None


def test_tokens_are_limited_by_run():
    limited = budget(tokens=180)
    spend(limited)
    assert limited.refusal("r", NOW) is None
    spend(limited)
    assert limited.refusal("r", NOW) == "180 of 180 tokens for run r"


def test_a_request_as_large_as_the_largest_must_fit():
    limited = budget(tokens=200)
    spend(limited, tokens=(100, 50))
    assert limited.refusal("r", NOW) == "150 of 200 tokens for run r"
    assert budget(tokens=1).refusal("r", NOW) is None  # nothing is known before the first


def test_money_is_limited_by_run():
    limited = budget(cost=0.30, price_in=1.0, price_out=5.0)
    spend(limited, tokens=(50_000, 20_000))  # 0.05 + 0.10
    assert limited.refusal("r", NOW) is None
    spend(limited, tokens=(50_000, 20_000))
    assert limited.refusal("r", NOW) == "a cost of 0.3 of 0.3 for run r"


@pytest.mark.parametrize("limit", [{"requests_per_hour": 2}, {"tokens_per_hour": 180}, {"cost_per_hour": 3.6e-4}])
def test_an_hour_is_limited_for_all_runs_together(limit):
    limited = budget(**limit, price_in=1.0, price_out=5.5)
    spend(limited, "a", NOW)
    spend(limited, "b", NOW + 1800)
    for run in ("a", "b", "c", None):
        assert "within an hour" in limited.refusal(run, NOW + 1900)
    assert limited.refusal(None, NOW + 3590) is not None
    assert limited.refusal(None, NOW + 3660) is None


def test_a_clock_that_was_set_back_blocks_for_an_hour_at_most():
    limited = budget(requests_per_hour=1)
    spend(limited, now=NOW + 1e9)
    assert limited.refusal(None, NOW) is not None
    assert limited.refusal(None, NOW + 3660) is None


def test_the_state_stays_small():
    limited = budget(requests_per_hour=10)
    for number in range(MAX_RUNS + 200):
        limited.refusal(None, NOW + 60 * number)
        spend(limited, f"r{number}", NOW + 60 * number)
    assert len(limited.state.runs) == MAX_RUNS
    assert "r0" not in limited.state.runs
    assert len(limited.state.minutes) <= 61


requests = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 500), st.integers(0, 500), st.integers(0, 600)), max_size=60
)


@given(requests, st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 20))
def test_no_limit_is_passed_by_more_than_one_unknown_request(made, tokens, hourly, count):
    settings = {"tokens": tokens, "tokens_per_hour": hourly, "requests": count}
    limited = budget(**settings)
    now, largest = NOW, 0
    done = []
    for run, tokens_in, tokens_out, wait in made:
        now += wait
        limited = Budget(BudgetSettings(**settings), State.model_validate_json(limited.state.model_dump_json()))
        if limited.refusal(run, now):
            continue
        spend(limited, run, now, (tokens_in, tokens_out))
        before, largest = largest, max(largest, tokens_in + tokens_out)
        done.append((run, now, tokens_in + tokens_out))
        growth = largest - before  # what could not be known when it started
        assert sum(used for name, _, used in done if name == run) <= tokens + growth
        assert sum(used for _, at, used in done if at > now - 3540) <= hourly + growth
        assert sum(name == run for name, _, _ in done) <= count


def test_prices_are_for_a_million_tokens():
    assert BudgetSettings(price_in=3, price_out=15).price(1_000_000, 100_000) == pytest.approx(4.5)
    with pytest.raises(ValidationError, match="price_in"):
        BudgetSettings(cost=1)


def ledger(path, model="m", **limits):
    return Ledger(BudgetSettings(**limits), path, model, clock=lambda: NOW)


def test_the_counts_survive_in_a_file(tmp_path):
    path = tmp_path / "deep" / "budget.json"
    first = ledger(path, requests=2)
    first.settle(first.start("r"), 70, 20)
    first.start("r")  # and the process is killed
    again = ledger(path, requests=2)
    assert again.refusal("r") == "2 of 2 requests for run r"
    with pytest.raises(BudgetReached, match="2 of 2"):
        again.start("r")
    assert ledger(path, "another", requests=2).refusal("r") is None
    assert json.loads(path.read_text())["m"]["runs"]["r"]["requests"] == 2


def test_proposers_share_a_file_without_losing_a_count(tmp_path):
    path = tmp_path / "budget.json"
    started = []

    def one():
        mine = ledger(path, requests=25)
        for _ in range(10):
            try:
                started.append(mine.start("r"))
            except BudgetReached:
                return

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 25


@pytest.mark.parametrize("text", ["", "{", "[]", '{"m": 1}', '{"m": {"runs": {"r": {"requests": "x"}}}}', "\x00\xff"])
def test_a_damaged_file_is_one_line_and_stays(text, tmp_path):
    path = tmp_path / "budget.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="damaged") as caught:
        ledger(path, requests=2)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == text.encode("latin-1")


def test_a_file_damaged_on_the_way_stops_the_requests(tmp_path):
    path = tmp_path / "budget.json"
    mine = ledger(path, requests=5)
    reservation = mine.start("r")
    path.write_text("{")
    assert "damaged" in mine.refusal("r")
    with pytest.raises(BudgetReached, match="damaged"):
        mine.start("r")
    mine.settle(reservation, 1, 1)
    assert path.read_text() == "{"


def test_a_file_that_cannot_be_had_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        ledger(tmp_path / "file" / "budget.json", requests=1)
    with pytest.raises(UserError, match="cannot be used"):
        ledger(tmp_path, requests=1)
