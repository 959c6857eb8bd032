"""A turn of the loop touches the bus only if there is news, or if there is something to do."""

from dataclasses import fields
from types import SimpleNamespace

import pytest

from bus.channel import LeaseEnded
from bus.in_process import InProcessChannel
from shared.settings import RestartSettings, Settings
from trainer.proposals import Proposals
from trainer.search.restarts import Candidate, Restarts, Trial


class Counting(InProcessChannel):
    """Counts the calls; nobody is free, and events come when the test adds them."""

    def __init__(self):
        super().__init__(lambda _: None, model="m")
        self.news, self.events, self.calls = [], [], []
        self.free = False

    def poll(self):
        self.calls.append("poll")
        self.news.clear()
        events, self.events = self.events, []
        return events

    def can_lease(self):
        self.calls.append("can_lease")
        return self.free


class Asking(Proposals):
    def _ask(self):
        self.channel.calls.append("ask")
        self.state.restarts.asked(self.state.lane_steps, ["lease"])

    def _score(self):
        self.channel.calls.append("score")
        self.state.restarts.unscored = []

    def _start_candidates(self):
        self.channel.calls.append("start")


@pytest.fixture
def turns():
    settings = Settings(restarts=RestartSettings(request_every=100))
    restarts = Restarts(settings.restarts, 10**6)
    values = dict.fromkeys(field.name for field in fields(Proposals))
    values |= {"settings": settings, "channel": Counting(), "observers": lambda _: None}
    values["state"] = SimpleNamespace(restarts=restarts, lane_steps=0, iterations=1, exchanged=-1)
    proposals = Asking(**values)

    def take(number=1):
        """The calls of the next turns."""
        proposals.channel.calls.clear()
        for _ in range(number):
            proposals.exchange()
            proposals.state.lane_steps += 1
        return list(proposals.channel.calls)

    return proposals, take


def test_turns_without_news_call_nothing(turns):
    _, take = turns
    take()
    assert take(1000) == []  # a request is due, and nobody is free


def test_whoever_becomes_free_is_asked_at_once_and_again_when_a_request_is_due(turns):
    proposals, take = turns
    take(10)
    proposals.channel.free = True
    proposals.channel.news.append(None)
    assert take() == ["poll", "can_lease", "ask"]
    assert take(99) == []
    assert take() == ["poll", "can_lease", "ask"]  # 100 lane-steps later


def test_a_lost_lease_is_noticed_at_once(turns):
    proposals, take = turns
    proposals.channel.free = True
    assert take() == ["poll", "can_lease", "ask"]
    proposals.channel.events.append(LeaseEnded("lease", None, "gone"))
    proposals.channel.news.append(None)
    assert take() == ["poll", "can_lease", "ask"]
    assert take(10) == []


def test_what_was_taken_over_for_a_checkpoint_is_scored_in_the_next_turn(turns):
    proposals, take = turns
    take(5)
    proposals.collect()
    proposals.state.restarts.unscored = [Candidate("words", "lease", 0)]
    assert "score" in take()


def test_waiting_candidates_cost_nothing_until_an_evaluation_or_the_end_of_a_trial(turns):
    proposals, take = turns
    challenger = SimpleNamespace(number=1, age=0)
    proposals.state.restarts.waiting = [Candidate("words", "lease", 0, score=1.0)]
    proposals.state.restarts.trials = {1: Trial(Candidate("others", "lease", 0), ends=40)}
    proposals.state.lanes = [SimpleNamespace(number=0), challenger]
    assert "start" in take()
    assert take(50) == []
    proposals.collect()  # the checkpoint after an evaluation
    assert "start" in take()
    assert take(50) == []
    proposals.drop_diverged(challenger)
    assert "start" in take()
    assert take(50) == []
