"""The view of a run on a terminal, and its plain lines elsewhere."""

import pytest
from conftest import run_program
from report_runs import HOSTILE, event, make_run, summary, told
from rich.console import Console

from trainer.report.run import Run
from trainer.watch import main, seconds_left, view


def shown(run):
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured:
        console.print(view(run))
    return captured.get()


def test_a_terminal_shows_losses_lanes_the_last_adoption_and_the_llm(tmp_path):
    text = shown(Run(make_run(tmp_path / "run", told())))
    assert "of 60 lane-steps" in text
    assert "0.700 (lowest 0.700)" in text
    assert "1 of 2 adopted" in text
    assert "a prompt a at 50, gain +0.150" in text
    assert "1 answers, the last from a prompt" in text


@pytest.mark.parametrize("cut", range(6))
def test_a_run_that_has_hardly_begun_is_shown(tmp_path, cut):
    assert "lane-steps" in shown(Run(make_run(tmp_path / "run", told()[:cut])))


def test_text_from_elsewhere_neither_styles_nor_steers_the_terminal(tmp_path):
    text = shown(Run(make_run(tmp_path / "run", told(f"[red]{HOSTILE}\x1b[2J"))))
    assert "[red]" in text
    assert "\x1b[2J" not in text and "\u202e" not in text and "\x07" not in text


def test_time_left_follows_the_pace_of_the_steps(tmp_path):
    steps = [{**event("step", step, lanes=[0]), "time": 1000.0 + 2 * step} for step in range(1, 21)]
    run = Run(make_run(tmp_path / "run", [event("started", 0, budget=60), *steps]))
    assert seconds_left(run) == pytest.approx(2 * 40)
    assert seconds_left(Run(make_run(tmp_path / "new", told()[:1]))) is None


@pytest.mark.parametrize("end", [{"done": summary()}, {"stop": True}])
def test_elsewhere_it_prints_a_line_and_ends_with_the_run(tmp_path, end):
    events = [*told(), *([event("stopped", 50)] if "stop" in end else [])]
    make_run(tmp_path / "run", events, end.get("done"))
    ended = run_program(main, "run", "--folder", tmp_path)
    assert ended.status == 0
    assert ended.out.count("\n") == 1
    assert ("stopped at 50 of 60" if "stop" in end else "finished, 50") in ended.out


def test_a_run_that_does_not_exist_is_refused(tmp_path):
    assert "nowhere" in run_program(main, "nowhere", "--folder", tmp_path).refused()
    assert "--help" in run_program(main, "--nothing").refused()
