"""The view of a run on a terminal, and its plain lines elsewhere."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import run_program
from forks import Household
from report_runs import HOSTILE, event, make_run, run_events, summary
from rich.console import Console

from scripts.harness.processes import ROOT, SMALL, until
from trainer.report.run import Run
from trainer.watch import main, seconds_left, view


def shown(run):
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured:
        console.print(view(run))
    return captured.get()


def test_a_terminal_shows_losses_lanes_the_last_adoption_and_the_llm(tmp_path):
    text = shown(Run(make_run(tmp_path / "run", run_events())))
    assert "of 60 lane-steps" in text
    assert "0.700 (lowest 0.700)" in text
    assert "1 of 2 adopted" in text
    assert "a prompt a at 50, gain +0.150" in text
    assert "1 answers, the last from a prompt" in text


@pytest.mark.parametrize("cut", range(6))
def test_a_run_that_has_hardly_begun_is_shown(tmp_path, cut):
    assert "lane-steps" in shown(Run(make_run(tmp_path / "run", run_events()[:cut])))


def test_text_from_elsewhere_neither_styles_nor_steers_the_terminal(tmp_path):
    text = shown(Run(make_run(tmp_path / "run", run_events(f"[red]{HOSTILE}\x1b[2J"))))
    assert "[red]" in text
    assert "\x1b[2J" not in text and "\u202e" not in text and "\x07" not in text


def test_time_left_follows_the_pace_of_the_steps(tmp_path):
    steps = [{**event("step", step, lanes=[0]), "time": 1000.0 + 2 * step} for step in range(1, 21)]
    run = Run(make_run(tmp_path / "run", [event("started", 0, budget=60), *steps]))
    assert seconds_left(run) == pytest.approx(2 * 40)
    assert seconds_left(Run(make_run(tmp_path / "new", run_events()[:1]))) is None


@pytest.mark.parametrize("end", [{"done": summary()}, {"stop": True}])
def test_elsewhere_it_prints_a_line_and_ends_with_the_run(tmp_path, end):
    events = [*run_events(), *([event("stopped", 50)] if "stop" in end else [])]
    make_run(tmp_path / "run", events, end.get("done"))
    ended = run_program(main, "run", "--folder", tmp_path)
    assert ended.status == 0
    assert ended.out.count("\n") == 1
    assert ("stopped at 50 of 60" if "stop" in end else "finished, 50") in ended.out


def test_a_run_that_does_not_exist_is_refused(tmp_path):
    assert "nowhere" in run_program(main, "nowhere", "--folder", tmp_path).refused()
    assert "--help" in run_program(main, "--nothing").refused()


def stands_below_lines(screen):
    """Whether one whole view, and nothing else, stands below the lines of a running trainer."""
    above, _, view = screen.partition("╭")
    frame = view.splitlines()
    return (
        "dev" in above
        and "│" not in above
        and "time left" in view
        and " of 200 lane-steps" in frame[-1]
        and frame[-1].startswith("╰")
        and all(line.startswith("│") and line.endswith("│") for line in frame[1:-1])
    )


@pytest.mark.skipif(not shutil.which("tmux"), reason="NO TERMINAL TEST RAN: apt-get install tmux")
def test_on_a_terminal_a_trainer_shows_the_view_below_its_lines(tmp_path):
    """What a terminal of 100 columns shows while a run goes on, and all that it showed at its end."""

    def tmux(*arguments):
        return subprocess.run(
            ["tmux", "-f", "/dev/null", "-S", str(tmp_path / "tmux"), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def screen(*options):
        return tmux("capture-pane", "-p", *options).rstrip()

    settings = {**SMALL, "TANDEM_FOLDER": str(tmp_path / "runs"), "TANDEM_THREADS": "1"}
    environment = [f"{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "trainer", "demo", "--name", "seen", "--steps", "200"]
    controls = ["--restarts.source", "vocabulary", "--num_evals", "20"]
    tmux("new-session", "-d", "-x", "100", "-y", "40", "-c", str(ROOT), "env", *environment, *command, *controls)
    try:
        tmux("set-option", "-g", "remain-on-exit", "on")
        until(lambda: stands_below_lines(screen()), "a whole view below the lines")
        until(lambda: "summary.json" in screen("-J"), "the end")  # -J joins lines that were wrapped
        whole = screen("-J", "-S", "-")
    finally:
        tmux("kill-server")
    history = (tmp_path / "runs" / "seen" / "history.jsonl").read_text()
    evaluated = [event["step"] for event in map(json.loads, history.splitlines()) if event["kind"] == "evaluation"]
    assert len(evaluated) == 21
    assert re.findall(r"^step (\d+)/200 ", whole, re.MULTILINE) == list(map(str, evaluated))
    assert not any(sign in whole for sign in "╭│╰")


def test_elsewhere_a_trainer_writes_plain_lines(tmp_path):
    with Household(tmp_path, **SMALL, TANDEM_RESTARTS__POLICY="none", TANDEM_STEPS="20", FORCE_COLOR="1") as home:
        trainer = home.trainer("demo")
        assert trainer.wait() == 0
    assert "step 20/20" in trainer.text
    assert "\x1b" not in trainer.text and "╭" not in trainer.text
