"""The trajectory and its digest: right numbers, bounded size, valid before the first step."""

import json

import numpy as np
import pytest
import torch
from conftest import FRUIT, make_settings, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from bus.codec import decode, encode
from bus.messages import CandidateOutcome, Digest, Work
from trainer.search.digest import DigestWriter
from trainer.search.evaluation import EvalResult
from trainer.search.events import CandidatesPassedOver
from trainer.search.trajectory import MAX_KEPT, RECENT, Trajectory

SETTINGS = make_settings(prompt={"words": "kiwi fig"})
LABELS = ["apple", "pear"]


def encoded(digest):
    frame = encode(Work(lease="l", seconds=60.0, digest=digest), SETTINGS.bus.max_frame_bytes)
    assert decode(frame, SETTINGS.bus.max_frame_bytes).digest == digest
    return frame


def mark(trajectory, fruit, losses, words="kiwi fig", settings=SETTINGS):
    for loss in losses:
        step = trajectory.points[-1].step + 10 if trajectory.points else 0
        trajectory.evaluated(step, fruit.embed(words, 256), EvalResult(loss, 0.5), fruit, settings.prompt.projection)


def digest(trajectory, fruit, gradient=None, lane_steps=0, words="kiwi fig", settings=SETTINGS):
    prompt = fruit.embed(words, 256)
    task, restarts = settings.task.description, settings.restarts
    writer = DigestWriter("run", task, LABELS, settings.steps, fruit, settings.prompt, restarts)
    return writer.write(trajectory, lane_steps, prompt, gradient)


@given(st.lists(st.floats(0, 10), min_size=2, max_size=60))
def test_the_slope_is_that_of_a_line_through_the_recent_losses(losses):
    trajectory = Trajectory()
    for loss in losses:
        trajectory.step(loss)
    recent = losses[-RECENT:]
    assert trajectory.slope() == pytest.approx(np.polyfit(range(len(recent)), recent, 1)[0], abs=1e-8)


def test_the_slope_is_below_zero_while_it_improves():
    trajectory = Trajectory()
    assert trajectory.slope() == 0.0
    for step in range(5):
        trajectory.step(3.0 - 0.25 * step)
    assert trajectory.slope() == pytest.approx(-0.25)


@pytest.mark.parametrize(
    ("losses", "since"),
    [
        ([], 0),
        ([1.0], 0),
        ([1.0, 1.0], 1),
        ([1.0, 0.9, 0.8], 0),
        ([1.0, 0.5, 0.6, 0.7, 0.6], 3),
        ([1.0, 0.5, 0.6, 0.7, 0.4], 0),
    ],
)
@pytest.mark.parametrize("patience", [0, 1, 2, 3])
def test_a_plateau_is_where_the_development_loss_no_longer_improves(fruit, losses, since, patience):
    settings = make_settings(prompt={"words": "kiwi fig"}, restarts={"patience": patience})
    trajectory = Trajectory()
    mark(trajectory, fruit, losses)
    trajectory.step(1.0)
    assert trajectory.is_plateau(patience) == (since >= max(1, patience))
    made = digest(trajectory, fruit, torch.zeros(2, 6), settings=settings).slope
    assert made.plateau == (since >= max(1, patience))
    assert Trajectory.from_state_dict(trajectory.state_dict()).is_plateau(patience) == made.plateau


def test_a_point_has_the_words_how_near_they_are_and_the_mean_loss_since_the_last(fruit):
    trajectory = Trajectory()
    mark(trajectory, fruit, [1.0])
    assert trajectory.points[0].words == "kiwi fig"
    assert trajectory.points[0].cosine == pytest.approx(1.0, abs=1e-5)
    assert trajectory.points[0].train_loss is None
    for loss in (3.0, 1.0):
        trajectory.step(loss)
    mark(trajectory, fruit, [0.8])
    trajectory.step(0.5)
    mark(trajectory, fruit, [0.7])
    assert [point.train_loss for point in trajectory.points] == [None, 2.0, 0.5]
    assert [point.dev_loss for point in trajectory.points] == [1.0, 0.8, 0.7]


def test_a_restart_forgets_the_old_incumbents_slope(fruit):
    trajectory = Trajectory()
    for loss in (1.0, 5.0, 9.0):
        trajectory.step(loss)
    trajectory.restarted()
    for loss in (3.0, 2.5):
        trajectory.step(loss)
    assert trajectory.slope() == pytest.approx(-0.5)
    mark(trajectory, fruit, [1.0])
    assert trajectory.points[0].train_loss == 2.75


def test_the_first_digest_needs_no_step(fruit):
    trajectory = Trajectory()
    mark(trajectory, fruit, [1.0])
    trajectory.measure("kiwi fig", EvalResult(1.0, 0.5))
    first = digest(trajectory, fruit)
    assert first.slope is None and first.substitutions == []
    assert (first.step, first.sequence, first.run) == (0, 1, "run")
    assert [entry.words for entry in first.best] == ["kiwi fig"]
    assert first.labels == LABELS and first.task == SETTINGS.task.description
    assert (first.budget, first.num_candidates, first.num_tokens) == (20, 3, 8)
    assert encoded(first)
    assert digest(trajectory, fruit).sequence == 2


def test_a_digest_says_where_the_gradient_pushes(fruit):
    trajectory = Trajectory()
    mark(trajectory, fruit, [1.0])
    for loss in (1.0, 0.75):
        trajectory.step(loss)
    gradient = torch.stack([-fruit.embed("plum", 1)[0], torch.full((6,), 2.0)])
    made = digest(trajectory, fruit, gradient, lane_steps=2)
    assert [(push.position, push.word) for push in made.substitutions] == [(0, "kiwi"), (1, "fig")]
    assert [push.replacements for push in made.substitutions] == fruit.hotflip_candidates(
        gradient, len(made.substitutions[0].replacements)
    )
    assert made.slope.loss_per_step == pytest.approx(-0.25)
    assert made.slope.gradient_norm == pytest.approx(float(np.linalg.norm(gradient.numpy())), rel=1e-5)
    assert made.slope.plateau is False


def test_a_digest_has_the_best_prompts_first_and_the_newest_outcomes(fruit):
    trajectory = Trajectory()
    mark(trajectory, fruit, [1.0])
    for number in range(100):
        trajectory.measure(f"prompt {number}", EvalResult((number * 37) % 100 / 100, 0.5))
        trajectory.outcomes.append(CandidateOutcome(words=f"prompt {number}", outcome="dropped"))
    made = digest(trajectory, fruit)
    losses = [entry.loss for entry in made.best]
    assert losses == sorted(losses) and losses[0] == 0.0 and 1 < len(losses) <= 64
    assert made.outcomes == trajectory.outcomes[-len(made.outcomes) :] and made.outcomes[-1].words == "prompt 99"


def test_a_long_trajectory_is_sampled_with_both_its_ends(fruit):
    trajectory = Trajectory()
    mark(trajectory, fruit, [1 - number / 1000 for number in range(500)])
    steps = [point.step for point in digest(trajectory, fruit).trajectory]
    assert steps[0] == 0 and steps[-1] == 4990
    assert steps == sorted(set(steps)) and 5 <= len(steps) <= 20
    gaps = np.diff(steps)
    assert gaps.max() <= 2 * gaps.min()


def test_a_digest_stays_small_whatever_happened(fruit):
    trajectory = Trajectory()
    mark(trajectory, fruit, [1.0] * 300, words="cherry lemon melon mango peach quince olive berry")
    for number in range(1000):
        trajectory.measure(f"{number} " + "x" * 195, EvalResult(number / 7, 0.5))
        trajectory.outcomes.append(
            CandidateOutcome(words=f"{number} " + "y" * 195, outcome="dropped", score=1.0, gain=-0.1)
        )
        trajectory.step(1.0)
    made = digest(trajectory, fruit, torch.randn(2, 6), lane_steps=2990)
    assert len(encoded(made)) < 16 * 1024


def test_the_longest_prompt_still_gives_a_digest():

    from trainer.backbones.vocabulary import Vocabulary

    tokenizer = tiny_tokenizer(["characteristically", "internationalization", *FRUIT])
    vocabulary = Vocabulary(tokenizer, torch.randn(len(tokenizer), 6, generator=torch.Generator().manual_seed(0)))
    settings = make_settings(prompt={"num_tokens": 256, "init": "random"})
    words = "characteristically internationalization " * 128
    trajectory = Trajectory()
    mark(trajectory, vocabulary, [1.0, 0.9], words, settings)
    made = digest(trajectory, vocabulary, torch.randn(256, 6), words=words, settings=settings)
    assert len(made.substitutions) == 256 and made.trajectory[0].words.startswith("characteristically")
    assert encoded(made)


def test_a_saved_trajectory_goes_on_as_it_was(fruit):
    trajectory = Trajectory()
    mark(trajectory, fruit, [1.0, 0.9])
    for loss in (1.0, 0.5, 0.7):
        trajectory.step(loss)
    trajectory.measure("kiwi", EvalResult(0.4, 0.75))
    trajectory.outcomes.append(CandidateOutcome(words="kiwi", outcome="adopted", score=0.4, gain=0.1))
    digest(trajectory, fruit)
    again = Trajectory.from_state_dict(json.loads(json.dumps(trajectory.state_dict())))
    gradient = torch.ones(2, 6)
    for one in (trajectory, again):
        one.step(0.6)
    assert digest(again, fruit, gradient) == digest(trajectory, fruit, gradient)
    assert isinstance(digest(again, fruit), Digest)


def test_the_best_measured_prompts_and_the_last_outcomes_are_kept(fruit):
    trajectory = Trajectory()
    for number in range(2 * MAX_KEPT):
        words = f"prompt {number}"
        trajectory.measure(words, EvalResult(1.0 - number / 1e4 if number % 2 else 2.0, 0.5))
        outcomes = [CandidateOutcome(words=words, outcome="dropped")]
        trajectory(CandidatesPassedOver("lease", outcomes, number))
    assert len(trajectory.measured) == len(trajectory.outcomes) == MAX_KEPT
    assert all(entry.loss < 2.0 for entry in trajectory.measured.values())
    assert trajectory.outcomes[-1].words == f"prompt {2 * MAX_KEPT - 1}"
    assert digest(trajectory, fruit).best[0].words == f"prompt {2 * MAX_KEPT - 1}"
