"""`scripts/compare` for real: several runs at a time, stopped, continued, and not mixed with others."""

import csv
import json
import signal
import sys

import pytest
from conftest import ROOT, run_program

from scripts.compare import main
from scripts.harness.processes import SMALL, FreshLLM, Household, until

pytestmark = pytest.mark.timeout(300)

PATIENCE = 200.0
"""Seconds: loading, two runs and their report, on a busy machine."""

SCRIPT = str(ROOT / "scripts" / "compare.py")
SMALLEST = [
    *("--seeds", "1,2", "--steps", "40", "--rates", "1e-3", "--jobs", "2"),
    *("--restarts.trial_steps", "10", "--restarts.patience", "0"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    with Household(folder, **SMALL) as household:
        yield household


def compare(home, *arguments, out="out"):
    return home.start(sys.executable, SCRIPT, "demo", "--out", str(home.folder / out), *arguments)


@pytest.fixture(scope="module")
def done(home):
    """A small comparison, and what it said."""
    process = compare(home, *SMALLEST, "--arms", "plain-2,vocabulary")
    assert process.wait(PATIENCE) == 0, process.text
    return process.text


def events(path, kind):
    return [event for event in map(json.loads, path.open()) if event["kind"] == kind]


def test_it_leaves_tables_plots_and_the_report_of_its_runs(home, done):
    out = home.folder / "out"
    assert (out / "comparison.md").read_text() in done
    runs = list(csv.DictReader((out / "runs.csv").open()))
    arms = ["plain", "plain-best", "plain-2", "vocabulary", "plain-lr0.001"]
    assert [row["arm"] for row in runs[::2]] == arms and {row["seed"] for row in runs} == {"1", "2"}
    best = [row for row in runs if row["arm"] == "plain-best"]
    assert {row["run"].split("-s")[0] for row in best} <= {"plain", "plain-lr0.001"}
    page = (out / "demo" / "report.html").read_text()
    assert "vocabulary" in page and "plain-2" in page
    assert {f"{name}.{form}" for name in ("curves", "differences") for form in ("png", "pdf")} <= {
        path.name for path in (out / "demo").iterdir()
    }


@pytest.mark.usefixtures("done")
def test_every_arm_has_the_same_budget_and_scoring_is_reported(home):
    runs = list(csv.DictReader((home.folder / "out" / "runs.csv").open()))
    assert {row["lane_steps"] for row in runs} == {"40"}
    scored = {row["arm"] for row in runs if float(row["scoring"]) > 0}
    assert scored == {"plain-2", "vocabulary"}
    for row in runs:
        passes = 3 * float(row["scoring"]) - int(row["scored"])  # the incumbent is measured with the candidates
        assert passes == pytest.approx(round(passes), abs=5e-3) and (passes > 0.5) == (row["arm"] in scored)


@pytest.mark.usefixtures("done")
def test_several_starts_train_from_the_first_step_until_the_budget_ends(home):
    history = home.folder / "out" / "demo" / "plain-2-s1" / "history.jsonl"
    steps = events(history, "step")
    assert len(steps) == 20 and all(len(step["lanes"]) == 2 for step in steps)


def test_a_slow_llm_is_waited_for_and_its_tokens_are_counted(home):
    llm = FreshLLM()
    model = ("--proposer.model", "ollama:stand-in", "--proposer.base_url", llm.url)
    budget = ("--seeds", "1", "--steps", "20", "--rates", "none", "--restarts.trial_steps", "5")
    shorter_than_the_delay = ("--proposer.timeout_seconds", "1.5", "--bus.lease_seconds", "1.5")
    process = compare(home, *budget, *model, *shorter_than_the_delay, "--arms", "llm-sync", "--delay", "2", out="slow")
    assert process.wait(PATIENCE) == 0, process.text
    llm.stop()
    (row,) = [one for one in csv.DictReader((home.folder / "slow" / "runs.csv").open()) if one["arm"] != "plain"]
    assert row["arm"] == "llm-sync-2s" and len(llm.requests) == 1
    assert float(row["llm_seconds"]) >= 2 and float(row["seconds"]) >= 2
    assert (int(row["input_tokens"]), int(row["output_tokens"])) == llm.usage and int(row["scored"]) == 3


def test_time_left_is_shown(done):
    assert "[1 of 8, about " in done and "[8 of 8, about 0 s left]" in done


@pytest.mark.usefixtures("done")
def test_the_same_command_makes_no_run_again(home):
    again = compare(home, *SMALLEST, "--arms", "plain-2,vocabulary")
    assert again.wait() == 0, again.text
    assert "8 of 8 runs are finished already" in again.text


@pytest.mark.usefixtures("done")
@pytest.mark.parametrize("other", [("--steps", "80"), ("--optimizer.batch_size", "4"), ("--num_evals", "4")])
def test_runs_of_other_settings_are_not_mixed_in(home, other, monkeypatch):
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    before = (home.folder / "out" / "comparison.md").read_text()
    arguments = ("demo", "--out", home.folder / "out", *SMALLEST, *other, "--arms", "plain")
    assert other[0].removeprefix("--") in run_program(main, *arguments).refused()
    assert (home.folder / "out" / "comparison.md").read_text() == before


def test_a_stopped_comparison_continues_where_it_was(home):
    arguments = ("--steps", "200", "--num_evals", "40", "--arms", "plain", "--rates", "none")
    history = home.folder / "stopped" / "demo" / "plain-s1" / "history.jsonl"
    process = compare(home, *arguments, "--seeds", "1-100", out="stopped")  # more runs than a pipe to workers holds
    until(lambda: history.exists() and len(events(history, "evaluation")) > 2, "a few evaluations")
    process.send(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert "the same command continues from here" in process.text and "Traceback" not in process.text
    assert events(history, "stopped") and not events(history, "ended")
    again = compare(home, *arguments, "--seeds", "1", out="stopped")
    assert again.wait() == 0, again.text
    assert events(history, "resumed") and events(history, "ended")
    assert "| plain |" in again.text and "plain-best" not in again.text
