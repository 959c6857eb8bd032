"""What may change when a run is resumed or replayed, and what makes it another run."""

import pytest
from conftest import make_settings

from shared.errors import UserError
from trainer.changes import accept_changes
from trainer.runs.directory import RunDirectory, read_settings


@pytest.fixture
def begun(tmp_path):
    def begin(**values):
        settings = make_settings(folder=str(tmp_path), name="mine", steps=20, num_evals=2, **values)
        return settings, RunDirectory.create(settings)

    return begin


def test_the_same_settings_are_accepted(begun):
    settings, directory = begun()
    assert accept_changes(settings, settings, directory) == settings


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 2}, "seed is 1 in this run, not 2"),
        ({"steps": 10}, "steps is 20 in this run, not 10"),
        ({"num_evals": 4}, "num_evals is 2 in this run, not 4"),
        ({"optimizer": {"lr": 0.5}}, "optimizer.lr is 0.002 in this run, not 0.5"),
        ({"task": {"shots": 2}}, "task.shots is 4 in this run, not 2"),
        ({"task": {"labels": {"billing": "a", "account": "b"}}}, "task.labels is"),
        ({"restarts": {"epochs": [1, 2]}}, "restarts.epochs is [] in this run, not [1, 2]"),
    ],
)
def test_what_would_make_another_run_is_refused_by_name(begun, changes, named):
    kept, directory = begun()
    given = make_settings(folder=kept.folder, name="mine", **{"steps": 20, "num_evals": 2, **changes})
    with pytest.raises(UserError) as caught:
        accept_changes(kept, given, directory)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert read_settings(directory.path) == kept


def test_where_a_run_computes_and_talks_may_change_and_is_kept(begun):
    kept, directory = begun()
    given = kept.model_copy(update={"threads": 1, "bus": kept.bus.model_copy(update={"bind": "ipc:///tmp/elsewhere"})})
    assert accept_changes(kept, given, directory) == given == read_settings(directory.path)


def test_more_steps_keep_the_interval_between_evaluations(begun):
    kept, directory = begun()
    longer = accept_changes(kept, kept.model_copy(update={"steps": 50}), directory)
    assert (longer.steps, longer.num_evals) == (50, 5) and read_settings(directory.path) == longer


@pytest.mark.parametrize(
    ("values", "steps", "why"),
    [
        ({"optimizer": {"schedule": "cosine"}}, 40, "followed a cosine schedule"),
        ({"optimizer": {"schedule": "linear"}}, 40, "followed a linear schedule"),
        ({"epochs": 3}, 40, "is set by epochs = 3"),
        ({}, 25, "multiple of the 10 lane-steps between evaluations"),
    ],
)
def test_more_steps_are_refused_where_they_cannot_be_right(begun, values, steps, why):
    kept, directory = begun(**values)
    with pytest.raises(UserError, match=why):
        accept_changes(kept, kept.model_copy(update={"steps": steps}), directory)


def test_a_finished_run_is_not_made_longer(begun):
    kept, directory = begun()
    directory.write_json("summary.json", {})
    with pytest.raises(UserError, match="its test data used"):
        accept_changes(kept, kept.model_copy(update={"steps": 40}), directory)
