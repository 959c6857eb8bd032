"""Resume, replay and restart by name: only what is the same run goes on, and the line says what differs."""

import json
import shutil

import pytest
from conftest import LABELS, SHORT_DEMO, find_helpdesk, run_program

from trainer.command import main


def stopping(after):
    """A descent that a signal breaks off in the step `after`."""
    from trainer.descent import Descent
    from trainer.runs.signals import Stopped

    class Stopping(Descent):
        def step(self, lanes):
            if self._state.iterations == after:
                raise Stopped
            return super().step(lanes)

    return Stopping


@pytest.fixture
def begin(tmp_path, loaded):  # noqa: ARG001 - a fixture's effect
    """Starts the run `mine` on a copy of the data, and stops it after `stop_after` steps."""
    data = tmp_path / "data"
    shutil.copytree(find_helpdesk(), data)

    def start(stop_after=None, *arguments):
        options = ["--task.labels", json.dumps(LABELS), "--task.path", data, *SHORT_DEMO, *arguments]
        with pytest.MonkeyPatch.context() as patch:
            if stop_after is not None:
                patch.setattr("trainer.tuning.Descent", stopping(stop_after))
            return run_program(main, "demo", "--folder", tmp_path / "runs", "--name", "mine", *options)

    start.path = tmp_path / "runs" / "mine"
    start.data = data
    return start


def resume(begin, *arguments):
    return run_program(main, "--resume", begin.path, *arguments)


def test_a_name_is_begun_continued_and_left_alone_when_it_is_finished(begin):
    assert begin(10, "--if-exists", "resume").status == 128
    again = begin(None, "--if-exists", "resume")
    assert again.status == 0, again
    kinds = [json.loads(line)["kind"] for line in (begin.path / "history.jsonl").read_text().splitlines()]
    assert [kind for kind in kinds if kind in ("started", "stopped", "resumed", "ended")] == [
        "started",
        "stopped",
        "resumed",
        "ended",
    ]
    before = {path: path.read_bytes() for path in begin.path.rglob("*") if path.is_file()}
    third = begin(None, "--if-exists", "resume")
    assert third.status == 0 and "is finished" in third.out and "test accuracy" in third.out
    assert {path: path.read_bytes() for path in begin.path.rglob("*") if path.is_file()} == before


def test_a_name_of_a_run_with_other_settings_is_refused(begin):
    begin(10)
    line = begin(None, "--if-exists", "resume", "--seed", "7").refused()
    assert "seed is 1 in this run, not 7" in line


def test_without_a_name_there_is_nothing_to_resume_by_name(tmp_path):
    line = run_program(main, "demo", "--folder", tmp_path, "--if-exists", "resume").refused()
    assert "set --name" in line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--seed", "2"], "seed is 1 in this run, not 2"),
        (["--optimizer.lr", "0.1"], "optimizer.lr is"),
        (["agnews"], "recipe is 'demo' in this run, not 'agnews'"),
        (["--steps", "20"], "steps is 24 in this run, not 20"),
    ],
)
@pytest.mark.parametrize("way", ["--resume", "--replay"])
def test_options_that_differ_from_the_runs_are_named(begin, way, arguments, named):
    begin(10)
    line = run_program(main, *arguments, way, begin.path).refused()
    assert named in line


def test_the_environment_counts_as_an_option(begin, monkeypatch):
    begin(10)
    monkeypatch.setenv("TANDEM_RESTARTS__TRIAL_STEPS", "9")
    assert "restarts.trial_steps is 4 in this run, not 9" in resume(begin).refused()


def test_options_that_say_the_same_are_not_a_difference(begin):
    begin(10)
    assert resume(begin, "--seed", "1", "--steps", "24").status == 0


def test_a_plain_run_made_longer_is_the_longer_run(begin, tmp_path):
    plain = ("--restarts.policy", "none")
    begin(10, *plain)
    assert resume(begin, "--steps", "36").status == 0
    whole = run_program(
        main,
        "demo",
        "--folder",
        tmp_path / "other",
        "--name",
        "whole",
        "--task.labels",
        json.dumps(LABELS),
        "--task.path",
        begin.data,
        *SHORT_DEMO,
        *plain,
        "--steps",
        "36",
        "--num_evals",
        "3",
    )
    assert whole.status == 0, whole
    one, other = (json.loads((path / "summary.json").read_text()) for path in (begin.path, tmp_path / "other/whole"))
    assert (one["dev"], one["test"], one["steps"]) == (other["dev"], other["test"], 36)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_labels_that_were_swapped_on_disk_are_noticed(begin, split):
    begin(10)
    file = begin.data / f"{split}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["label"] = {"billing": "delivery", "delivery": "billing"}.get(row["label"], row["label"])
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = resume(begin).refused()
    assert "data is not what the run began with" in line and split in line
    assert (begin.path / "checkpoint/state.safetensors").is_file()


def test_a_result_that_cannot_be_written_is_one_line_and_loses_nothing(begin):
    begin(10)
    (begin.path / "best").write_text("in the way")
    line = resume(begin).refused()
    assert "cannot be written" in line and "--resume" in line
    (begin.path / "best").unlink()
    assert resume(begin).status == 0
    assert (begin.path / "summary.json").is_file()
    kinds = [json.loads(line)["kind"] for line in (begin.path / "history.jsonl").read_text().splitlines()]
    assert kinds.count("ended") == 1
