"""The fold of a run's history: the same view whatever way the lines come."""

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.report.events import event_type
from trainer.report.history import History
from trainer.report.run import Follower, Run, find_runs

WORDS = st.text(alphabet="ab\u202e'\"<{", max_size=4)
LOSS = st.floats(0.1, 3)


@st.composite
def events(draw, begin=0):
    """What a run may write, from lane-steps `begin` on."""
    step, clock, events = begin, 1000.0, []
    for number in range(draw(st.integers(1, 12))):
        clock += 1
        kind = draw(st.sampled_from(["step", "evaluation", "digest", "proposal", "candidates", "trial", "outcome"]))
        values = {}
        if kind == "step":
            lanes = draw(st.integers(1, 3))
            step += lanes
            losses = draw(st.lists(LOSS, min_size=lanes, max_size=lanes))
            values = {"lanes": list(range(lanes)), "train_losses": losses, "bus_seconds": 0.25}
        elif kind == "evaluation":
            values = {"words": draw(WORDS), "dev_loss": draw(LOSS), "lanes": [{"lane": 0, "age": 1, "loss": 1.0}]}
        elif kind == "digest":
            values = {"sequence": number + begin, "num_candidates": 3}
        elif kind == "proposal":
            values = {"lease": f"l{number}", "asked": max(0, step - 2), "seconds": 1.5}
        elif kind == "candidates":
            values = {"scored": [{"words": draw(WORDS), "lease": "l", "score": draw(LOSS)}]}
        elif kind == "trial":
            values = {"lane": number, "words": draw(WORDS)}
        else:
            values = {"words": draw(WORDS), "outcome": draw(st.sampled_from(["adopted", "late"])), "gain": 0.5}
        events.append({"kind": kind, "time": clock, "step": step, **values})
    return events


def lines(events):
    return [json.dumps(event, ensure_ascii=False) + "\n" for event in events]


def folded(*parts):
    history = History()
    for part in parts:
        history.feed(part)
    view = asdict(history.view)
    view.pop("unreadable")
    return view


STARTED = {"kind": "started", "step": 0, "time": 999.0, "budget": 100}


@given(events())
def test_every_event_that_a_run_writes_is_in_the_view(events):
    view = History().feed(lines([STARTED, *events]))
    assert not view.unreadable
    assert view.started.budget == 100
    assert view.lane_steps == events[-1]["step"]
    assert view.time == events[-1]["time"]
    assert list(view.steps.step) == [event["step"] for event in events if event["kind"] == "step"]
    assert len(view.digests) == sum(event["kind"] == "digest" for event in events)
    assert len(view.proposals) == sum(event["kind"] == "proposal" for event in events)
    assert {one.words for one in view.scored} == {
        one["words"] for event in events if event["kind"] == "candidates" for one in event["scored"]
    }
    assert {event.words for event in view.outcomes.values()} == {
        event["words"] for event in events if event["kind"] == "outcome"
    }


@given(events(), st.data())
def test_it_does_not_matter_how_the_lines_are_cut_into_calls(events, data):
    whole = lines([STARTED, *events])
    at = data.draw(st.integers(0, len(whole)))
    assert folded(whole[:at], whole[at:]) == folded(whole)


@given(events(), st.data())
def test_repeated_lines_change_nothing(events, data):
    whole = lines([STARTED, *events])
    at = data.draw(st.integers(1, len(events)))
    once = folded(whole)
    assert folded(whole, whole) == once
    twice = folded(whole[: at + 1], whole[at:])
    for view in (twice, once):
        view["steps"].pop("seconds")  # the time between a step and its copy is none
    assert twice == once


@given(events(), st.data())
def test_a_line_torn_by_a_kill_costs_only_itself(events, data):
    whole = lines([STARTED, *events])
    at = data.draw(st.integers(1, len(events)))
    torn = whole[at][: data.draw(st.integers(1, len(whole[at]) - 2))]
    after = lines([{"kind": "resumed", "step": events[at - 1]["step"], "time": 5000.0}])
    rest = whole[at + 1 :]
    assert folded(whole[:at], [torn + after[0]], rest) == folded(whole[:at], after, rest)
    assert folded(whole[:at], [torn + "\n"], whole[at:]) == folded(whole)


@given(events(), events(), st.data())
def test_a_resume_that_goes_back_overrides_what_came_later(before, after, data):
    back = data.draw(st.sampled_from(sorted({0, *(event["step"] for event in before)})))
    shifted = [{**event, "step": event["step"] + back} for event in after]
    resumed = {"kind": "resumed", "step": back, "time": 5000.0}
    kept = [event for event in before if event["step"] <= back]
    assert folded(lines([STARTED, *before, resumed, *shifted])) == folded(lines([STARTED, *kept, resumed, *shifted]))


@given(st.lists(st.binary(max_size=60) | st.text(max_size=60)))
def test_no_line_breaks_it(garbage):
    History().feed(garbage)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["kind", "step", "lanes", "time", "scored", "train_losses"]), inner)
        ),
    )
)
def test_no_json_breaks_it(value):
    for kind in ("step", "evaluation", "candidates", "started"):
        event = {**value, "kind": kind} if isinstance(value, dict) else value
        History().feed([json.dumps(event)])


def test_an_older_run_that_goes_back_without_saying_so_is_overridden_too():
    steps = [{"kind": "step", "step": step, "lanes": [0], "train_losses": [step]} for step in (1, 2, 3, 4)]
    again = [{"kind": "step", "step": step, "lanes": [0], "train_losses": [10 * step]} for step in (3, 4)]
    view = History().feed(lines([*steps, *again]))
    assert list(view.steps.step) == [1, 2, 3, 4]
    assert list(view.steps.lanes[0][1]) == [1, 2, 30, 40]


def test_a_missing_or_infinite_loss_is_kept_as_a_gap():
    view = History().feed(['{"kind": "step", "step": 1, "lanes": [0, 1, 2], "train_losses": [NaN, null]}'])
    assert all(math.isnan(values[0]) for _, values in view.steps.lanes.values())
    assert len(view.steps.lanes) == 3


def test_time_between_processes_does_not_count():
    events = [
        {"kind": "started", "step": 0, "time": 100.0},
        {"kind": "step", "step": 1, "time": 102.0, "lanes": [0]},
        {"kind": "stopped", "step": 1, "time": 102.5},
        {"kind": "resumed", "step": 1, "time": 900.0},
        {"kind": "step", "step": 2, "time": 903.0, "lanes": [0]},
    ]
    assert list(History().feed(lines(events)).steps.seconds) == [2.0, 3.0]


def test_the_follower_reads_on_and_starts_over_where_the_file_was_cut(tmp_path):
    path = tmp_path / "history.jsonl"
    follower = Follower(path)
    assert not follower.refresh()
    first = lines([{"kind": "step", "step": step, "lanes": [0]} for step in range(1, 6)])
    path.write_text("".join(first) + '{"kind": "st')
    assert follower.refresh()
    assert follower.view.lane_steps == 5
    assert not follower.refresh()
    with path.open("a") as file:
        file.write('ep", "step": 6, "lanes": [0]}\n')
    assert follower.refresh()
    assert follower.view.lane_steps == 6
    again = lines([{"kind": "step", "step": step, "lanes": [3]} for step in range(1, 12)])
    path.write_text("".join(first[:2] + again[2:]))  # longer than before
    assert follower.refresh()
    assert follower.view.lane_steps == 11
    assert follower.view.lane_steps in follower.view.steps.lanes[3][0]
    path.write_text("".join(first[:3]))
    assert follower.refresh()
    assert follower.view.lane_steps == 3


def run_directory(path, *events, summary=None, **config):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"steps": 10, "metrics": {"stale_seconds": 60}, **config}))
    (path / "history.jsonl").write_text("".join(lines(events)))
    if summary is not None:
        (path / "summary.json").write_text(json.dumps(summary))
    return path


@pytest.mark.parametrize(
    ("events", "summary", "state"),
    [
        ([STARTED], None, "running"),
        ([STARTED, {"kind": "stopped", "step": 3}], None, "stopped"),
        ([STARTED, {"kind": "stopped", "step": 3}, {"kind": "resumed", "step": 3}], None, "running"),
        ([STARTED, {"kind": "ended", "step": 3}], None, "finished"),
        ([], {"steps": 3}, "finished"),
    ],
)
def test_the_state_of_a_run(tmp_path, events, summary, state):
    run = Run(run_directory(tmp_path / "run", *events, summary=summary))
    assert run.state() == state
    late = run.state(now=run._newest() + 61)
    assert late == ("stale" if state == "running" else state)


def test_runs_are_found_in_a_folder_and_its_folders(tmp_path):
    for name in ("a/plain-s1", "a/llm-s1", "b"):
        run_directory(tmp_path / name, STARTED)
    for nested in ("baseline", "control"):
        run_directory(tmp_path / "b" / nested, STARTED)
    assert [str(path.relative_to(tmp_path)) for path in find_runs(tmp_path)] == ["a/llm-s1", "a/plain-s1", "b"]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]


def test_a_real_run_is_read_without_loss(finished):
    folder, _ = finished
    run = Run(folder)
    events = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    view = run.view
    assert not view.unreadable
    assert view.lane_steps == run.summary["steps"] == 24
    assert len(view.steps.step) == sum(event["kind"] == "step" for event in events)
    assert len(view.scored) == run.summary["proposals"]["scored"]
    assert len(view.trials) == run.summary["proposals"]["trials"]


def test_the_page_describes_every_event_and_every_field():
    from pathlib import Path

    page = (Path(__file__).resolve().parents[2] / "docs" / "history.md").read_text()
    schema = event_type.json_schema()
    for definition in schema["$defs"].values():
        kind = definition["properties"].get("kind", {}).get("const")
        if kind:
            assert f"## `{kind}`" in page
        for name in definition["properties"]:
            assert f"`{name}`" in page, f"{name} of {definition['title']}"
