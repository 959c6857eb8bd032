"""Restarts: the policies, the bounds, and that every candidate comes to exactly one end."""

import json
import math
from collections import Counter
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shared.settings import RestartSettings
from trainer.search.restarts import LONGEST_WORDS, MAX_SEEN, Incumbent, Restarts, clean_words

POLICIES = ["trial", "greedy", "always"]


def machine(policy="trial", budget=1000, **values):
    return Restarts(RestartSettings(**{"policy": policy, "request_every": 40, "trial_steps": 10, **values}), budget)


def receive(restarts, words, lease="lease", lane_steps=0):
    """What is to be measured now, and the outcomes of the others."""
    outcomes = restarts.receive(words, lease, lane_steps, lane_steps)
    return restarts.unscored, outcomes


def measure(restarts, scores, lane_steps=0):
    """Receive and measure candidates, as words to their loss; the outcomes of those that the queue dropped."""
    fresh, outcomes = receive(restarts, list(scores), lane_steps=lane_steps)
    assert not outcomes
    return [candidate for candidate, _ in restarts.scored([scores[candidate.words] for candidate in fresh])]


def incumbent(loss=1.0, plateau=True, from_noise=False, is_noise=False):
    return Incumbent(loss, plateau, from_noise, is_noise)


def begin(restarts, lane, lane_steps=0, **values):
    """Start the best waiting candidate in `lane`."""
    candidate = restarts.start(lane_steps, incumbent(**values))
    if candidate is not None:
        restarts.opened(lane, candidate)
    return candidate


# Asking


def test_the_first_request_is_due_before_the_first_step_and_the_next_after_every():
    restarts = machine(request_every=40)
    assert restarts.wants(0)
    restarts.asked(0, ["l"])
    assert not restarts.wants(0) and not restarts.wants(39)
    assert restarts.wants(40)
    restarts.skip_request(40)
    assert not restarts.wants(79) and restarts.wants(80)
    assert restarts.tally.digests_leased == 1


def test_rounds_that_are_set_are_the_only_ones_also_after_a_checkpoint():
    restarts = Restarts(RestartSettings(policy="always", trial_steps=10, request_every=5), 1000, rounds=[30, 60, 90])
    asked = []
    for lane_steps in range(200):
        if restarts.wants(lane_steps):
            if lane_steps == 60:
                restarts.skip_request(lane_steps)
            else:
                restarts.asked(lane_steps, ["l"])
                restarts.settled("l")
            asked.append(lane_steps)
            saved = json.loads(json.dumps(restarts.state_dict()))
            restarts = Restarts.from_state_dict(restarts.settings, restarts.budget, saved)
    assert asked == [30, 60, 90]


def test_a_request_that_lost_all_its_leases_is_made_again():
    restarts = machine(request_every=40)
    restarts.asked(0, ["one", "two"])
    restarts.lease_ended("one")
    assert not restarts.wants(5)
    restarts.lease_ended("two")
    assert restarts.wants(5) and restarts.next_request == 40
    restarts.asked(5, ["three"])
    assert not restarts.wants(39)
    restarts.settled("three")
    assert not restarts.wants(39) and restarts.wants(40)


def test_one_answer_of_several_leases_closes_a_request():
    restarts = machine(request_every=40)
    restarts.asked(0, ["one", "two"])
    restarts.settled("one")
    restarts.lease_ended("two")
    assert not restarts.wants(39)


def test_every_fixed_round_is_answered_however_many_leases_it_takes():
    rounds, answered = [30, 60, 90], []
    restarts = Restarts(RestartSettings(policy="always", trial_steps=10), 1000, rounds=rounds)
    for lane_steps in range(200):
        if restarts.wants(lane_steps):
            restarts.asked(lane_steps, [f"lease {lane_steps}"])
            if lane_steps % 5 == 4:  # before, no lease was answered
                restarts.settled(f"lease {lane_steps}")
                answered.append(lane_steps)
            else:
                restarts.lease_ended(f"lease {lane_steps}")
    assert answered == [34, 64, 94]


def test_an_open_request_is_made_again_after_a_resume_because_its_leases_ended_with_the_process():
    restarts = Restarts(RestartSettings(policy="always", trial_steps=10), 1000, rounds=[30, 60])
    restarts.asked(30, ["lost"])
    again = Restarts.from_state_dict(restarts.settings, 1000, json.loads(json.dumps(restarts.state_dict())))
    assert not restarts.wants(31) and again.wants(31)
    again.asked(31, ["new"])
    again.settled("new")
    assert not again.wants(59) and again.wants(60)


def test_an_answer_to_an_older_request_does_not_close_the_open_one():
    restarts = machine(request_every=40)
    restarts.asked(0, ["old"])
    restarts.asked(40, ["new"])
    restarts.settled("old")
    restarts.lease_ended("new")
    assert restarts.wants(41)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_candidate_whose_loss_is_not_finite_is_out_and_harms_no_other(loss):
    restarts = machine()
    receive(restarts, ["a", "b"])
    ((candidate, outcome),) = restarts.scored([loss, 0.5])
    assert (candidate.words, outcome.outcome, outcome.score) == ("a", "diverged", None)
    assert [one.words for one in restarts.waiting] == ["b"] and restarts.tally.diverged == 1


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_challenger_that_diverges_loses_its_trial(loss):
    restarts = machine()
    measure(restarts, {"a": 0.5, "b": 0.6})
    begin(restarts, 1)
    begin(restarts, 2)
    assert restarts.judge(1, 1.0, loss).outcome == "diverged" and restarts.diverged(2).outcome == "diverged"
    assert not restarts.trials and restarts.tally.diverged == 2 and restarts.tally.adopted == 0


def test_plain_prompt_tuning_never_asks():
    assert not any(machine("none").wants(lane_steps) for lane_steps in range(0, 1000, 10))


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_asked_or_started_that_the_budget_cannot_train(policy):
    restarts = machine(policy, budget=100, trial_steps=10)
    lanes = 2 if policy == "trial" else 1
    last = 100 - lanes * 10
    assert restarts.wants(last) and not restarts.wants(last + 1)
    measure(restarts, {"a": 0.1, "b": 0.2})
    assert restarts.start(last + 1, incumbent(9.0, True)) is None
    assert restarts.start(last, incumbent(9.0, True)).words == "a"


# Policies


def test_trial_starts_the_best_and_no_more_than_are_allowed():
    restarts = machine(max_challengers=2)
    measure(restarts, {"c": 0.3, "a": 0.1, "b": 0.2})
    assert begin(restarts, 1).words == "a"
    assert begin(restarts, 2).words == "b"
    assert begin(restarts, 3) is None
    restarts.judge(1, 1.0, 2.0)
    assert begin(restarts, 3).words == "c"
    assert restarts.tally.trials == 3


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_trial_waits_for_the_incumbent_to_stop_improving(patience):
    restarts = machine(patience=patience)
    measure(restarts, {"a": 0.1, "b": 0.2})
    if patience:
        assert begin(restarts, 1, plateau=False, loss=0.1) is None
    assert begin(restarts, 1, plateau=patience > 0, loss=0.1).words == "a"
    assert begin(restarts, 2, plateau=True, loss=0.1).words == "b"


def test_words_that_are_better_than_noise_do_not_wait():
    restarts = machine(patience=1)
    measure(restarts, {"a": 0.1, "b": 0.2})
    assert begin(restarts, 1, plateau=False, loss=0.2, from_noise=True).words == "a"
    assert begin(restarts, 2, plateau=False, loss=0.2, from_noise=True) is None
    assert begin(restarts, 2, plateau=True, loss=0.2, from_noise=True).words == "b"


def test_words_replace_noise_without_a_trial_and_however_little_is_left_of_the_budget():
    restarts = machine(trial_steps=10, budget=5)
    assert restarts.wants(0, is_noise=True) and not restarts.wants(0)
    fresh = restarts.receive(["good", "bad"], "lease", 0, 0, is_noise=True)
    assert not fresh and not restarts.scored([0.5, 1.5])
    noise = incumbent(1.0, plateau=False, from_noise=True, is_noise=True)
    best = restarts.start(1, noise)
    assert best.words == "good" and restarts.replaces(best, noise) and restarts.held(noise) == 1
    assert restarts.replaced(best, 1.0).outcome == "adopted"
    assert restarts.start(1, noise) is None, "the other is worse than noise, and there is no room for a trial"
    assert [outcome.words for outcome in restarts.receive(["late"], "lease", 0, 1)] == ["late"]


def test_an_incumbent_that_took_a_step_or_has_a_head_is_replaced_after_a_trial_only():
    for values in ({"from_noise": True}, {}):
        restarts = machine()
        measure(restarts, {"good": 0.5})
        best = restarts.start(0, incumbent(1.0, **values))
        assert not restarts.replaces(best, incumbent(1.0, **values))


@given(score=st.floats(0, 2), loss=st.floats(0, 2))
def test_all_words_wait_for_an_incumbent_that_comes_from_words(score, loss):
    restarts = machine(patience=1)
    measure(restarts, {"a": score})
    assert begin(restarts, 1, plateau=False, loss=loss) is None
    assert begin(restarts, 1, plateau=True, loss=loss).words == "a"


def test_trial_starts_candidates_that_score_worse_than_the_incumbent():
    restarts = machine()
    measure(restarts, {"a": 5.0})
    assert begin(restarts, 1, loss=0.1).words == "a"


@pytest.mark.parametrize(("incumbent", "challenger", "outcome"), [(1.0, 0.75, "adopted"), (1.0, 1.25, "dropped")])
def test_a_trial_is_won_by_the_lower_loss_and_says_by_how_much(incumbent, challenger, outcome):
    restarts = machine()
    measure(restarts, {"a": 0.5})
    begin(restarts, 7)
    judged = restarts.judge(7, incumbent, challenger)
    assert (judged.outcome, judged.words, judged.score) == (outcome, "a", 0.5)
    assert judged.gain == pytest.approx(incumbent - challenger)
    assert restarts.tally.adopted == (outcome == "adopted")
    assert not restarts.trials


def test_a_draw_keeps_the_incumbent():
    restarts = machine()
    measure(restarts, {"a": 0.5})
    begin(restarts, 1)
    assert restarts.judge(1, 0.7, 0.7).outcome == "dropped"


def test_a_challenger_is_due_when_it_has_trained_its_steps():
    restarts = machine(trial_steps=10)
    measure(restarts, {"a": 0.5})
    begin(restarts, 1)
    assert not restarts.due(1, 9) and restarts.due(1, 10)
    assert not restarts.due(0, 1000)


def test_greedy_starts_only_what_scores_better_than_the_incumbent():
    restarts = machine("greedy")
    measure(restarts, {"a": 0.5})
    assert restarts.start(0, incumbent(0.5, False)) is None
    assert restarts.start(0, incumbent(0.4, False)) is None
    candidate = restarts.start(0, incumbent(0.8, False))
    outcome = restarts.replaced(candidate, 0.8)
    assert (outcome.outcome, outcome.words, outcome.score) == ("adopted", "a", 0.5)
    assert outcome.gain == pytest.approx(0.3)
    assert restarts.tally.adopted == 1


def test_always_starts_what_scores_worse_too():
    restarts = machine("always")
    measure(restarts, {"a": 5.0, "b": 4.0})
    candidate = restarts.start(0, incumbent(0.1, False))
    assert candidate.words == "b"
    assert restarts.replaced(candidate, 0.1).gain == pytest.approx(-3.9)


# Queue


def test_the_queue_keeps_the_best_and_is_bounded():
    restarts = machine(queue_size=2)
    assert [candidate.words for candidate in measure(restarts, {"c": 0.3, "a": 0.1, "d": 0.4})] == ["d"]
    assert [candidate.words for candidate in measure(restarts, {"b": 0.2, "e": 0.5})] == ["c", "e"]
    assert [candidate.words for candidate in restarts.waiting] == ["a", "b"]
    assert restarts.tally.scored == 5


# What is received


@pytest.mark.parametrize(
    "again", ["A Text", "a text ", "  a  text", "a\ttext", "A\u00a0TEXT", "a\x00text", "\uff41 text"]
)
def test_what_was_tried_is_not_measured_again(again):
    restarts = machine()
    assert not measure(restarts, {"a text": 1.0})
    fresh, (outcome,) = receive(restarts, [again])
    assert not fresh and outcome.outcome == "duplicate"
    assert restarts.tally.duplicates == 1


def test_a_proposal_that_repeats_itself_is_measured_once():
    fresh, outcomes = receive(machine(), ["one", "two", "One", "one"])
    assert [candidate.words for candidate in fresh] == ["one", "two"]
    assert [outcome.outcome for outcome in outcomes] == ["duplicate", "duplicate"]


def test_the_start_of_the_run_counts_as_tried():
    restarts = machine()
    assert restarts.notice("A text") and not restarts.notice("a text")
    assert not receive(restarts, ["a TEXT"])[0]


@pytest.mark.parametrize("empty", ["", " ", "\n\t", "\x00\x1b", "\u200b", "\u2028"])
def test_what_holds_nothing_is_empty(empty):
    restarts = machine()
    fresh, (outcome,) = receive(restarts, [empty])
    assert not fresh and outcome.outcome == "empty"


def test_what_comes_too_late_is_not_measured():
    restarts = machine(budget=100)
    fresh, outcomes = receive(restarts, ["a", "", "a"], lane_steps=95)
    assert not fresh
    assert [outcome.outcome for outcome in outcomes] == ["late", "empty", "duplicate"]
    assert restarts.tally.late == 1


def test_candidates_remember_their_lease_and_when_it_was_asked():
    restarts = machine()
    restarts.receive(["a"], "lease 7", 40, 90)
    (candidate,) = restarts.unscored
    assert (candidate.lease, candidate.asked) == ("lease 7", 40)


@given(st.text(max_size=400) | st.text(alphabet=" \t\n\x00\x1b\u202eab\u00e9", max_size=400))
def test_cleaned_words_are_one_short_line_without_control_characters(raw):
    words = clean_words(raw)
    assert len(words) <= LONGEST_WORDS
    assert words == words.strip() and "  " not in words
    assert words.isprintable()
    assert words.isascii() or words.encode()
    assert clean_words(words) == words


def test_a_ramble_is_cut_at_a_word():
    ramble = "wonderful words " * 640  # 10 KiB
    words = clean_words(ramble)
    assert LONGEST_WORDS - 16 < len(words) <= LONGEST_WORDS
    assert ramble.startswith(words) and words.split()[-1] in ("wonderful", "words")
    assert len(clean_words("x" * 10_240)) == LONGEST_WORDS
    assert clean_words("fits\x1b[31m well\x07") == "fits [31m well"


# The end


def test_at_the_end_the_waiting_were_outscored_and_the_tried_are_unfinished():
    restarts = machine()
    measure(restarts, {"a": 0.1, "b": 0.2, "c": 0.3})
    begin(restarts, 1)
    ended = {candidate.words: (outcome.outcome, outcome.score) for candidate, outcome in restarts.finish()}
    assert ended == {"a": ("unfinished", 0.1), "b": ("outscored", 0.2), "c": ("outscored", 0.3)}
    assert restarts.finish() == []


def test_a_saved_machine_goes_on_as_it_was():
    restarts = machine(max_challengers=2)
    restarts.asked(0, ["l"])
    restarts.settled("l")
    measure(restarts, {"a": 0.1, "b": 0.2, "c": 0.3})
    begin(restarts, 4)
    saved = json.loads(json.dumps(restarts.state_dict()))
    again = Restarts.from_state_dict(restarts.settings, restarts.budget, saved)
    assert again.state_dict() == restarts.state_dict()
    assert not again.wants(39) and again.wants(40)
    assert not receive(again, ["A"])[0]
    assert begin(again, 5).words == "b" and begin(again, 6) is None
    assert again.due(4, 10) and again.judge(4, 1.0, 0.5).words == "a"
    assert restarts.waiting[0].words == "b"  # the first is untouched by what the second does


# All of it together

words = st.sampled_from(["a", "b", "c", "A", " b", "", "\x00", "d e", "d  e", "f", "g", "h"]) | st.text(max_size=5)


class EveryCandidateEndsOnce(RuleBasedStateMachine):
    """Plays the loop: receives, measures, starts, steps and judges in any order that a run can come to."""

    @initialize(
        policy=st.sampled_from(POLICIES),
        challengers=st.integers(1, 3),
        queue=st.integers(1, 4),
        budget=st.integers(20, 200),
        from_noise=st.booleans(),
    )
    def open(self, policy, challengers, queue, budget, from_noise):
        self.from_noise = from_noise
        self.untouched = True
        self.limits = (challengers, queue)
        self.budget = budget
        self.restarts = machine(
            policy, budget, max_challengers=challengers, queue_size=queue, request_every=5, trial_steps=4
        )
        self.lane_steps = 0
        self.lanes = {}
        self.opened = 1
        self.loss = 1.0
        self.plateau = False
        self.given = Counter()
        self.ends = Counter()
        self.scores = {}
        self.measured = []
        self.done = False

    @property
    def incumbent(self):
        return Incumbent(self.loss, self.plateau, self.from_noise, self.from_noise and self.untouched)

    def end(self, outcome):
        self.ends[outcome.words] += 1

    @rule(proposed=st.lists(st.tuples(words, st.floats(0, 2)), max_size=6))
    def propose(self, proposed):
        if self.done:
            return
        before = asdict(self.restarts.tally)
        unscored = len(self.restarts.unscored)
        outcomes = self.restarts.receive(
            [word for word, _ in proposed], "lease", self.lane_steps, self.lane_steps, is_noise=self.incumbent.is_noise
        )
        self.given.update(clean_words(word) for word, _ in proposed)
        assert len(self.restarts.unscored) - unscored + len(outcomes) == len(proposed)
        self.scores = {clean_words(word): score for word, score in reversed(proposed)} | self.scores
        for outcome in outcomes:
            self.end(outcome)
        after = self.restarts.tally
        assert after.candidates - before["candidates"] == len(proposed)
        assert after.duplicates - before["duplicates"] == sum(outcome.outcome == "duplicate" for outcome in outcomes)

    @rule()
    def measure(self):
        fresh, before = self.restarts.unscored, self.restarts.tally.scored
        self.measured += [candidate.words.casefold() for candidate in fresh]
        for candidate, _ in self.restarts.scored([self.scores[candidate.words] for candidate in fresh]):
            self.ends[candidate.words] += 1
        assert self.restarts.tally.scored - before == len(fresh) and not self.restarts.unscored

    @rule(improved=st.booleans())
    def evaluate(self, improved):
        self.plateau = not improved

    @rule(scores=st.lists(st.floats(0, 2), min_size=4, max_size=4))
    def turn(self, scores):
        """One turn of the loop: measure and start what may start, step all lanes, judge who is due."""
        if self.done:
            return
        self.measure()
        while candidate := self.restarts.start(self.lane_steps, self.incumbent):
            if self.restarts.replaces(candidate, self.incumbent):
                self.end(self.restarts.replaced(candidate, self.loss))
                self.loss = candidate.score
                self.from_noise = False
            else:
                self.restarts.opened(self.opened, candidate)
                self.lanes[self.opened] = 0
                self.opened += 1
        self.untouched = False
        active = list(self.lanes)[: self.budget - self.lane_steps - 1]
        self.lane_steps += 1 + len(active)
        for lane, score in zip(active, scores, strict=False):
            self.lanes[lane] += 1
            if self.restarts.due(lane, self.lanes[lane]):
                outcome = self.restarts.judge(lane, self.loss, score)
                assert (outcome.outcome == "adopted") == (score < self.loss)
                assert outcome.gain == self.loss - score
                self.loss = min(self.loss, score)
                self.from_noise = self.from_noise and outcome.outcome != "adopted"
                self.end(outcome)
                del self.lanes[lane]
        if self.lane_steps >= self.budget:
            self.finish()

    @rule()
    def save_and_go_on(self):
        saved = json.loads(json.dumps(self.restarts.state_dict()))
        self.restarts = Restarts.from_state_dict(self.restarts.settings, self.budget, saved)
        assert self.restarts.state_dict() == saved

    def finish(self):
        self.done = True
        for _, outcome in self.restarts.finish():
            assert outcome.outcome != "unfinished" or outcome.score is None, (
                "a trial was begun that the budget could not end"
            )
            self.end(outcome)

    @invariant()
    def bounds_hold(self):
        challengers, queue = self.limits
        assert len(self.restarts.trials) <= challengers
        assert len(self.restarts.waiting) <= queue
        assert len(self.measured) == len(set(self.measured))
        assert self.restarts.trials.keys() == self.lanes.keys()
        tally = self.restarts.tally
        assert tally.adopted <= tally.scored and tally.trials <= tally.scored <= tally.candidates

    def teardown(self):
        if not hasattr(self, "restarts"):
            return
        if not self.done:
            for _, outcome in self.restarts.finish():
                self.end(outcome)
        assert self.ends == self.given
        assert self.restarts.tally.candidates == sum(self.given.values())


TestEveryCandidateEndsOnce = EveryCandidateEndsOnce.TestCase
TestEveryCandidateEndsOnce.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_is_remembered_of_prompts_is_bounded_and_survives_a_resume():
    restarts = machine()
    for number in range(MAX_SEEN + 10):
        assert restarts.notice(f"prompt {number}")
    state = json.loads(json.dumps(restarts.state_dict()))
    again = Restarts.from_state_dict(restarts.settings, restarts.budget, state)
    for one in (restarts, again):
        assert len(one.seen) == MAX_SEEN
        assert not one.notice(f"prompt {MAX_SEEN}")
        assert one.notice("prompt 0")  # the oldest are forgotten
        assert one.notice("prompt 10")  # and one for each that came since
    assert list(restarts.seen) == list(again.seen)
