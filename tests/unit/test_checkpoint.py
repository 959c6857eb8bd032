"""Checkpoints: all of a run comes back, and a damaged file is one line."""

import json

import pytest
import torch
from conftest import make_settings

from bus.messages import CandidateOutcome
from shared.errors import UserError
from trainer.runs.checkpoint import load_checkpoint, save_checkpoint
from trainer.runs.directory import CHECKPOINT as FILE
from trainer.search.evaluation import EvalResult
from trainer.search.lanes import Origin, backward, open_lane, optimizer_step, stack_lanes, zero_grad
from trainer.search.pool import Pool, Snapshot
from trainer.search.prompt_init import PromptInit
from trainer.search.restarts import Incumbent, Restarts
from trainer.search.state import RunState
from trainer.search.trajectory import Trajectory

SETTINGS = make_settings(prompt={"words": "kiwi fig"}, restarts={"policy": "trial", "source": "vocabulary"})
CPU = torch.device("cpu")
OFFSETS = {"history.jsonl": 12, "record.jsonl": 34}
HEAD = {"weight": torch.tensor([[1.0, -2.0]]), "bias": torch.tensor([0.5])}


def make_init(fruit):
    return PromptInit(SETTINGS.prompt, SETTINGS.seed, fruit)


def head():
    return {name: value.clone() for name, value in HEAD.items()}


def step(lanes):
    heads = torch.stack([lane.head["weight"].square().sum() for lane in lanes])
    zero_grad(lanes)
    backward(torch.sin(stack_lanes(lanes).prompts).sum((1, 2)) + heads)
    optimizer_step(lanes, SETTINGS.optimizer.lr)


def make_state(fruit, prompt_init):
    words = Origin("words", "kiwi fig", 0)
    second = Origin("proposal", 'plum \u00e9 "quoted"', 7)
    lanes = [
        open_lane(0, fruit.embed("kiwi fig", 8), HEAD, (words,), SETTINGS),
        open_lane(3, fruit.embed("plum", 8), HEAD, (words, second), SETTINGS),
    ]
    step(lanes)
    step(lanes)
    lanes.append(open_lane(4, fruit.embed("lime", 8), HEAD, (words,), SETTINGS))  # has not taken a step yet
    trajectory = Trajectory()
    trajectory.evaluated(0, lanes[0].prompt, EvalResult(1.0, 0.5), fruit, "cosine")
    trajectory.step(0.7)
    trajectory.outcomes.append(CandidateOutcome(words="plum", outcome="dropped", score=0.4, gain=-0.2))
    restarts = Restarts(SETTINGS.restarts, SETTINGS.steps)
    restarts.receive(["plum", "olive", "date"], "l1", 0, 3)
    restarts.scored([0.0, 0.1, 0.2])
    restarts.opened(3, restarts.start(3, Incumbent(1.0, True, False, False)))
    restarts.receive(["peach"], "l2", 3, 4)
    pool = Pool()
    pool.add(Snapshot(0, 4, torch.rand(2, 6), head(), (words,), EvalResult(0.3, 0.75)))
    pool.add(Snapshot(3, 4, torch.rand(1, 6), head(), (words, second), EvalResult(0.2, 0.7)))
    prompt_init.random_words()
    return RunState(lanes, EvalResult(0.3, 0.75), trajectory, restarts, pool, 9, 5, 5, 8, 1.25, 0.125)


@pytest.fixture
def saved(tmp_path, fruit):
    prompt_init = make_init(fruit)
    state = make_state(fruit, prompt_init)
    save_checkpoint(tmp_path, state, prompt_init, OFFSETS)
    return tmp_path, state, prompt_init


def test_all_of_a_state_comes_back(saved, fruit):
    folder, state, _ = saved
    again, offsets = load_checkpoint(folder, SETTINGS, make_init(fruit), CPU)
    assert offsets == OFFSETS
    for name in ("lane_steps", "iterations", "opened", "lanes_per_pass", "seconds", "stalled_seconds", "dev"):
        assert getattr(again, name) == getattr(state, name)
    assert again.trajectory.state_dict() == state.trajectory.state_dict()
    assert again.restarts.state_dict() == state.restarts.state_dict()
    assert len(again.pool.snapshots) == len(state.pool.snapshots) == 2
    for one, other in zip(again.pool.snapshots, state.pool.snapshots, strict=True):
        assert torch.equal(one.prompt, other.prompt)
        assert (one.lane, one.step, one.lineage, one.dev) == (other.lane, other.step, other.lineage, other.dev)
    assert len(again.lanes) == 3
    for one, other in zip(again.lanes, state.lanes, strict=True):
        assert torch.equal(one.prompt, other.prompt)
        assert all(torch.equal(one.head[name], other.head[name]) for name in HEAD)
        assert (one.number, one.age, one.lineage) == (other.number, other.age, other.lineage)


def test_the_optimizers_go_on_bit_for_bit(saved, fruit):
    folder, state, _ = saved
    again, _ = load_checkpoint(folder, SETTINGS, make_init(fruit), CPU)
    for _ in range(3):
        step(state.lanes)
        step(again.lanes)
    for one, other in zip(again.lanes, state.lanes, strict=True):
        assert torch.equal(one.prompt, other.prompt)
        assert all(torch.equal(one.head[name], other.head[name]) for name in HEAD)


def test_the_control_draws_on_where_it_was(saved, fruit):
    folder, _, prompt_init = saved
    other = make_init(fruit)
    load_checkpoint(folder, SETTINGS, other, CPU)
    assert other.random_words() == prompt_init.random_words() != make_init(fruit).random_words()


def test_a_newer_checkpoint_replaces_the_older_whole(saved, fruit):
    folder, state, prompt_init = saved
    state.lane_steps = 10
    save_checkpoint(folder, state, prompt_init, OFFSETS)
    assert load_checkpoint(folder, SETTINGS, make_init(fruit), CPU)[0].lane_steps == 10
    assert [path.name for path in (folder / FILE).parent.iterdir()] == [(folder / FILE).name]


def test_a_save_that_is_cut_off_leaves_the_older_one(saved, fruit, monkeypatch):
    folder, state, prompt_init = saved

    def fail(_, path, __):
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr("trainer.runs.checkpoint.save_file", fail)
    state.lane_steps = 10
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(folder, state, prompt_init, OFFSETS)
    assert load_checkpoint(folder, SETTINGS, make_init(fruit), CPU)[0].lane_steps == 9


def refusal(folder, fruit):
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder, SETTINGS, make_init(fruit), CPU)
    assert str(folder / FILE) in str(caught.value) and "\n" not in str(caught.value)


def test_where_there_is_none_it_says_so(tmp_path, fruit):
    refusal(tmp_path, fruit)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_damaged_checkpoint_is_refused(saved, fruit, keep):
    folder, *_ = saved
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:keep])
    refusal(folder, fruit)


def test_tensors_that_are_not_a_checkpoint_are_refused(saved, fruit):
    from safetensors.torch import save_file

    folder, *_ = saved
    for metadata in (None, {"state": "{}"}, {"state": "no JSON"}, {"other": "{}"}):
        save_file({"prompt_init": torch.zeros(2)}, folder / FILE, metadata)
        refusal(folder, fruit)


CHANGES = {
    "offset below zero": lambda plain, _: plain["offsets"].update({"history.jsonl": -5}),
    "offset in words": lambda plain, _: plain["offsets"].update({"record.jsonl": "12"}),
    "offsets in a list": lambda plain, _: plain.update(offsets=[1, 2]),
    "lanes of numbers": lambda plain, _: plain.update(lanes=[7]),
    "development result with more": lambda plain, _: plain["dev"].update(more=1),
    "no trajectory": lambda plain, _: plain.pop("trajectory"),
    "pool of nothing": lambda plain, _: plain.update(pool=[None]),
    "generator cut": lambda _, tensors: tensors.update(prompt_init=tensors["prompt_init"][:5].contiguous()),
    "lane without its prompt": lambda _, tensors: tensors.pop("lane.0.prompt"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_with_other_content_says_what_to_do(saved, fruit, change):
    from safetensors import safe_open
    from safetensors.torch import save_file

    folder, *_ = saved
    with safe_open(folder / FILE, "pt") as file:
        plain, tensors = json.loads(file.metadata()["state"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    CHANGES[change](plain, tensors)
    save_file(tensors, folder / FILE, {"state": json.dumps(plain)})
    with pytest.raises(UserError, match=r"is damaged, or saved by another version of Tandem .*; put a copy of it back"):
        load_checkpoint(folder, SETTINGS, make_init(fruit), CPU)
