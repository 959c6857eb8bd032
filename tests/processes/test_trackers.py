"""Trackers follow a real run, through a stop and a resume; trouble with one is an error before and a warning after."""

import json
import signal
import sqlite3

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from forks import Household
from report_runs import event, make_run, run_events

from scripts.harness.processes import SMALL
from shared.errors import UserError
from shared.settings import Settings
from trainer.runs.directory import RunDirectory
from trainer.trackers import Trackers

RUN = {**SMALL, "TANDEM_RESTARTS__SOURCE": "vocabulary", "TANDEM_STEPS": "300", "TANDEM_NUM_EVALS": "15"}


def scalars(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def evaluations(run):
    events = map(json.loads, (run / "history.jsonl").read_text().splitlines())
    return [(event["step"], event["dev_loss"]) for event in events if event["kind"] == "evaluation"]


def test_tensorboard_has_every_evaluation_of_a_run_that_was_stopped_and_resumed(tmp_path):
    with Household(tmp_path, **RUN) as home:
        first = home.trainer("demo", "--name", "seen", "--track", '["tensorboard"]')
        first.wait_for(r"step [1-9]\d+/")
        first.send(signal.SIGTERM)
        assert first.wait() == 128 + signal.SIGTERM, first.text
        again = home.trainer("--resume", "seen")
        assert again.wait() == 0, again.text
    found, kept = scalars(home.runs / "seen" / "tensorboard"), evaluations(home.runs / "seen")
    assert len(kept) == 16
    assert found["dev_loss"] == [(step, pytest.approx(loss, rel=1e-5)) for step, loss in kept]
    assert {"train_loss", "adopted", "llm_seconds", "test_accuracy"} <= set(found)


def test_wandb_keeps_a_run_offline(tmp_path):
    with Household(tmp_path, **{**RUN, "TANDEM_STEPS": "60"}, WANDB_MODE="offline") as home:
        trainer = home.trainer("demo", "--name", "seen", "--track", '["wandb"]')
        assert trainer.wait() == 0, trainer.text
    kept = list((home.runs / "seen" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(kept) == 1
    assert b"dev_loss" in kept[0].read_bytes()


def test_trackio_has_every_evaluation(tmp_path):
    store = {"TRACKIO_DIR": str(tmp_path / "trackio"), "TANDEM_STEPS": "60"}
    with Household(tmp_path, **{**RUN, **store}) as home:
        trainer = home.trainer("demo", "--name", "seen", "--track", '["trackio"]')
        assert trainer.wait() == 0, trainer.text
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        rows = [(step, json.loads(values)) for step, values in database.execute("select step, metrics from metrics")]
    found = [(step, pytest.approx(row["dev_loss"], rel=1e-6)) for step, row in rows if "dev_loss" in row]
    assert found == evaluations(home.runs / "seen")


@pytest.mark.parametrize(("name", "says"), [("nothing", "not one of aim"), ("aim", "not installed")])
def test_a_tracker_that_cannot_start_ends_the_run_before_it_began(tmp_path, name, says):
    with Household(tmp_path, **RUN) as home:
        trainer = home.trainer("demo", "--name", "refused", "--track", f'["{name}"]')
        assert trainer.wait() == 2
    assert trainer.text.count("\n") == 1 and says in trainer.text
    assert not (home.runs / "refused").exists()


class Broken(GeneralTracker):
    """Starts, and fails ever after."""

    name, requires_logging_directory, tracker = "broken", False, None
    calls = 0

    def __init__(self, _project):
        super().__init__()

    def log(self, *_, **__):
        type(self).calls += 1
        raise ConnectionError("nobody listens")

    finish = log


class Kept(GeneralTracker):
    """Keeps its rows."""

    name, requires_logging_directory, tracker = "kept", False, None
    rows = ()

    def __init__(self, _project):
        super().__init__()

    def log(self, values, step=None):
        type(self).rows += ((step, values),)


class Unready(Broken):
    def start(self):
        raise RuntimeError("no key\nand more")


def opened(folder, **settings):
    make_run(folder, [])
    (folder / "run.json").write_text('{"id": "run-0123456789abcdef"}')
    return Settings(**settings), RunDirectory(folder)


def test_a_failure_while_training_is_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "broken", Broken)
    settings, directory = opened(tmp_path / "run", track=["broken"])
    with Trackers(settings, directory):
        later = [{**one, "time": one["time"] + 1e9} for one in run_events()]
        (directory.path / "history.jsonl").write_text("".join(json.dumps(one) + "\n" for one in later))
    assert Broken.calls > 2
    assert [record.getMessage() for record in caplog.records if record.name == "trainer.trackers"] == [
        "track: broken failed (nobody listens); training continues"
    ]


def test_a_failure_at_the_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "unready", Unready)
    settings, directory = opened(tmp_path / "run", track=["unready"])
    with pytest.raises(UserError, match=r"^track: unready cannot start: no key$"):
        Trackers(settings, directory)


def test_what_an_earlier_process_fed_is_not_fed_again(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "kept", Kept)
    settings, directory = opened(tmp_path / "run", track=["kept"])
    history = directory.path / "history.jsonl"
    before = run_events()
    history.write_text("".join(json.dumps(one) + "\n" for one in before))
    with Trackers(settings, directory):
        new = {**event("evaluation", 60, words="end", dev_loss=0.5, lanes=[]), "time": 4e9}
        with history.open("a") as file:
            file.write(json.dumps(new) + "\n")
    assert [step for step, _ in Kept.rows] == [60]
    assert Kept.rows[0][1]["dev_loss"] == 0.5 and Kept.rows[0][1]["adopted"] == 1
