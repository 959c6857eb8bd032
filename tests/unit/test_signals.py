"""A real signal: at once, after what is being changed, or in the midst of what can be done again."""

import os
import signal

import pytest

from trainer.runs.signals import Stopped, StopSignals


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def signals(request):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    stop = StopSignals()
    with stop.installed():
        stop.send = lambda: os.kill(os.getpid(), request.param)
        yield stop
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_signal_stops_at_once(signals):
    with pytest.raises(Stopped):
        signals.send()
    assert signals.stopping and signals.number in (signal.SIGTERM, signal.SIGINT)


def test_what_is_being_changed_is_not_torn(signals):
    with signals.deferred():
        signals.send()
        assert signals.stopping


def test_long_work_that_changes_nothing_is_broken_off(signals):
    done = []
    with signals.deferred():
        with pytest.raises(Stopped), signals.interruptible():
            done.append("begun")
            signals.send()
            done.append("finished")
        signals.send()  # deferred again before it is raised: what follows is not torn either
        done.append("saved")
    assert done == ["begun", "saved"]


def test_long_work_is_not_begun_after_a_signal(signals):
    with signals.deferred():
        signals.send()
        with pytest.raises(Stopped), signals.interruptible():
            pytest.fail("it was begun")


def test_work_that_no_signal_breaks_off_leaves_the_rest_held(signals):
    with signals.deferred():
        with signals.interruptible():
            pass
        signals.send()
        assert signals.stopping
