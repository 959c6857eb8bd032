"""Budgets given in epochs, and the learning rate over the budget."""

import pytest
from conftest import make_settings
from hypothesis import given
from hypothesis import strategies as st

from shared.settings import OptimizerSettings
from trainer.search.schedule import WARMUP_LR, learning_rate, resolve_budget, steps_per_epoch


@pytest.mark.parametrize(("rows", "steps"), [(64, 12), (65, 15), (31, 6), (1, 3)])
def test_epochs_are_passes_over_the_training_rows(rows, steps):
    settings = make_settings(epochs=3, optimizer={"batch_size": 16})
    assert resolve_budget(settings, rows).steps == steps == 3 * steps_per_epoch(16, rows)


def test_without_epochs_the_steps_count():
    settings = make_settings(steps=20)
    assert resolve_budget(settings, 64) == settings


@given(st.sampled_from(["constant", "linear", "cosine"]), st.integers(1, 500), st.integers(0, 50))
def test_the_rate_begins_at_lr_after_the_warm_up_and_never_rises(schedule, budget, warmup):
    settings = OptimizerSettings(lr=0.1, schedule=schedule)
    rates = [learning_rate(settings, lane_steps, budget, warmup) for lane_steps in range(budget)]
    assert rates[:warmup] == [WARMUP_LR] * min(warmup, budget)
    after = rates[warmup:]
    assert after == sorted(after, reverse=True) and all(0 < rate <= 0.1 for rate in after)
    assert warmup or after[0] == 0.1


def test_half_way_through_linear_and_cosine_are_at_half_and_constant_is_not():
    def rates(schedule):
        settings = OptimizerSettings(lr=0.1, schedule=schedule)
        return [learning_rate(settings, lane_steps, 100, 0) for lane_steps in (25, 50, 75)]

    assert rates("linear") == pytest.approx([0.075, 0.05, 0.025])
    assert rates("cosine") == pytest.approx([0.0853553, 0.05, 0.0146447], abs=1e-6)
    assert rates("constant") == [0.1, 0.1, 0.1]
