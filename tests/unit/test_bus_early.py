"""A request that is made before the trainer is ready: it gets the answer, and hears of nothing that it did not ask."""

import threading

import pytest

from bus.channel import Answer
from bus.early import EarlyChannel
from bus.in_process import InProcessChannel
from shared.settings import PromptSettings, RestartSettings
from trainer.search.opening import opening_digest

DIGEST = opening_digest("run", "a task", ["yes", "no"], 100, PromptSettings(), RestartSettings())


class Proposer:
    """Answers each request with the next of `answers`, None for a lease that it gives back."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []
        self.done = threading.Event()

    def __call__(self, digest):
        self.asked.append(digest.sequence)
        answer = self.answers.pop(0) if self.answers else []
        if answer:
            self.done.set()
        return answer


@pytest.fixture
def early():
    channels = []

    def open_early(*answers):
        proposer = Proposer(*answers)
        channels.append(EarlyChannel(InProcessChannel(proposer, model="m"), DIGEST, 5))
        return proposer, channels[-1]

    yield open_early
    for channel in channels:
        channel.close()


def test_the_answer_is_there_when_the_trainer_asks(early):
    proposer, channel = early(["one", "two"], ["three"])
    assert proposer.done.wait(10)
    assert channel.poll() == [], "nobody asked yet"
    assert channel.can_lease()
    (lease,) = channel.lease(DIGEST, 5)
    assert channel.wait(0)
    (answer,) = channel.poll()
    assert isinstance(answer, Answer)
    assert answer.proposal.lease == lease.id and answer.proposal.candidates == ["one", "two"]

    later = DIGEST.model_copy(update={"sequence": 2})
    (lease,) = channel.lease(later, 5)
    (answer,) = channel.poll()
    assert answer.proposal.lease == lease.id and answer.proposal.candidates == ["three"]
    assert proposer.asked == [1, 2] and channel.counts().live == 0


def test_a_lease_that_comes_back_early_is_granted_again_unknown_to_the_trainer(early):
    proposer, channel = early(None, None, ["one"])
    assert proposer.done.wait(10)
    assert channel.poll() == []
    (lease,) = channel.lease(DIGEST, 5)
    (answer,) = channel.poll()
    assert answer.proposal.lease == lease.id
    assert proposer.asked == [1, 1, 1]


def test_nothing_runs_on_once_the_trainer_came_or_left(early):
    before = threading.active_count()
    _, channel = early(["one"])
    channel.poll()
    assert threading.active_count() == before
    _, channel = early(["one"])
    channel.close()
    assert threading.active_count() == before
