"""The controls of a comparison: what a shuffled and a blind digest hold, and what scoring costs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bus.messages import CandidateOutcome, Digest, Measured, Point, Slope, Substitution
from trainer.search.digest import shuffled
from trainer.search.evaluation import EncodedSplit, scoring_cost

loss = st.floats(0, 10)


def points(losses):
    return [
        Point(step=n, words=f"w{n}", cosine=1.0, train_loss=loss, dev_loss=loss, dev_accuracy=loss / 10)
        for n, loss in enumerate(losses)
    ]


def digest(losses, sequence=1):
    ordered = sorted(losses)
    return Digest(
        run="r",
        sequence=sequence,
        step=3,
        budget=10,
        task="task",
        labels=["a", "b"],
        num_tokens=4,
        num_candidates=3,
        trajectory=points(losses),
        substitutions=[Substitution(position=0, word="x", replacements=["y"])],
        slope=Slope(loss_per_step=-0.1, gradient_norm=1.0, plateau=False),
        best=[Measured(words=f"b{n}", loss=loss, accuracy=0.5) for n, loss in enumerate(ordered)],
        outcomes=[CandidateOutcome(words=f"o{n}", outcome="dropped", score=loss) for n, loss in enumerate(losses)],
    )


def figures(digest):
    return (
        sorted((point.train_loss, point.dev_loss, point.dev_accuracy) for point in digest.trajectory),
        [(entry.loss, entry.accuracy) for entry in digest.best],
        sorted(outcome.score for outcome in digest.outcomes),
    )


def words(digest):
    return (
        [(point.step, point.words) for point in digest.trajectory],
        sorted(entry.words for entry in digest.best),
        [outcome.words for outcome in digest.outcomes],
    )


@given(st.lists(loss, max_size=10), st.integers(1, 1000))
def test_a_shuffled_digest_has_the_same_words_and_the_same_figures(losses, sequence):
    full = digest(losses, sequence)
    other = shuffled(full)
    assert words(other) == words(full) and figures(other) == figures(full)
    assert shuffled(full) == other, "a resumed run shuffles as before"
    assert (other.substitutions, other.slope, other.task) == (full.substitutions, full.slope, full.task)


def test_a_shuffled_digest_says_another_loss_of_most_words():
    full = digest([float(n) for n in range(10)])
    other = shuffled(full)
    same = [new.dev_loss == old.dev_loss for new, old in zip(other.trajectory, full.trajectory, strict=True)]
    assert sum(same) < 5
    assert {(entry.words, entry.loss) for entry in other.best} != {(entry.words, entry.loss) for entry in full.best}


def split(rows, length):
    lengths = None if length is None else torch.full((rows,), length)
    return EncodedSplit(None, torch.zeros(rows), lengths)


def test_scoring_costs_a_third_of_a_step_by_positions():
    assert scoring_cost(split(50, None), split(9, None), 4, 8) == pytest.approx(1 / 3)
    assert scoring_cost(split(32, 12), split(64, 12), 32, 8) == pytest.approx(1 / 3)
    assert scoring_cost(split(64, 12), split(64, 12), 32, 8) == pytest.approx(2 / 3)
    assert scoring_cost(split(32, 32), split(64, 12), 32, 8) == pytest.approx(2 / 3)
    assert scoring_cost(split(32, 12), split(16, 12), 32, 8) == pytest.approx(2 / 3), "a batch is at most all rows"


def listener(heard):
    def answer(digest):
        heard.append(digest)
        return ["one word", "another word"] if len(heard) == 1 else []

    return answer


@pytest.mark.parametrize("kind", ["full", "shuffled", "blind"])
def test_proposers_of_a_control_get_its_digests_and_no_outcomes(runs, kind):
    read, outcomes = [], []
    restarts = {"policy": "trial", "source": "bus", "digest": kind}
    runs.tune(f"control-{kind}", propose=listener(read), hear=outcomes.append, steps=60, restarts=restarts)
    assert len(read) > 1
    assert bool(outcomes) == (kind == "full")
    last = read[-1]
    assert last.task and last.labels and last.step > 0
    assert bool(last.best) == bool(last.trajectory) == bool(last.substitutions) == (kind != "blind")
    assert kind != "blind" or (last.slope is None and not last.outcomes)


def test_scoring_is_counted_and_charged_only_where_a_setting_says_so(runs):
    restarts = {"policy": "greedy", "source": "vocabulary", "candidates": 12, "trial_steps": 1}
    _, counted = runs.tune("counted", steps=40, restarts=restarts)
    _, charged = runs.tune("charged", steps=40, restarts={**restarts, "charge_scoring": True})
    _, plain = runs.tune("no-scoring")
    assert plain.scoring_lane_steps == 0.0
    for state in (counted, charged):
        passes = len(runs.events("counted" if state is counted else "charged", "candidates"))
        assert state.lane_steps == 40
        assert state.scoring_lane_steps == pytest.approx((state.restarts.tally.scored + passes) / 3), (
            "and the incumbent"
        )
    assert counted.iterations == 40
    assert charged.iterations == 40 - int(charged.scoring_lane_steps)
    assert runs.events("charged", "evaluation")[-1]["step"] == 40, "the end of the budget is evaluated"


@pytest.mark.parametrize("stop", [1, 5])
def test_a_charged_run_that_was_stopped_ends_as_one_that_was_not(runs, stop):
    values = {"restarts": {"policy": "trial", "source": "vocabulary", "charge_scoring": True}, "steps": 30}
    whole, one = runs.tune(f"charged-whole-{stop}", **values)
    assert runs.tune(f"charged-broken-{stop}", stop_after=stop, **values) is None
    again, other = runs.tune(f"charged-broken-{stop}", **values)
    assert torch.equal(whole.members[0].prompt, again.members[0].prompt)
    assert one.scoring_lane_steps == other.scoring_lane_steps
