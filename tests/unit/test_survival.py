"""Training survives what happens to one lane, to memory and to the disk."""

import json
import math
import resource
import signal

import pytest
import torch
from conftest import LABELS, SHORT_DEMO, make_settings, run_program

from shared.errors import UserError
from trainer.command import main
from trainer.descent import PROBE_ROWS
from trainer.hooks import Hooks
from trainer.memory import in_passes
from trainer.search.lanes import Lane
from trainer.search.state import RunState
from trainer.search.trajectory import Trajectory

GOOD = "i have a question about my"
OTHER = "a note from a customer"
OUT_OF_MEMORY = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"


class Faulty:
    """The backbone, but for what a test does to its logits."""

    def __init__(self, backbone, change):
        self._backbone = backbone
        self._change = change
        self.passes = []
        """Lanes and rows of each pass."""

    def __getattr__(self, name):
        return getattr(self._backbone, name)

    def logits(self, stack, examples, training=False):
        self.passes.append((len(stack.prompts), len(examples)))
        return self._change(stack, self._backbone.logits(stack, examples, training), training)

    def class_embeddings(self, stack):
        return self._backbone.class_embeddings(stack)

    def classify(self, class_embeddings, examples):
        return self._backbone.classify(class_embeddings, examples)


@pytest.fixture
def faulty(runs, context, monkeypatch):
    """Runs on a backbone whose logits go through `change(stack, logits, training)`."""

    def make(change):
        from dataclasses import replace

        backbone = Faulty(context.backbone, change)
        monkeypatch.setattr(runs, "context", replace(context, backbone=backbone))
        return backbone

    return make


def answer_once(*words):
    answers = [list(words)]
    return lambda _: answers.pop() if answers else []


def play(runs, name, words, **restarts):
    return runs.tune(
        name,
        propose=answer_once(*words),
        restarts={"policy": "trial", "source": "bus", "max_challengers": 2, **restarts},
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["training", "scoring"])
def test_a_lane_whose_loss_is_not_finite_is_dropped_and_the_others_go_on(runs, faulty, where, value):
    """The lanes that start from GOOD break down; the loss of a lane is that of its own logits."""
    target = runs.context.backbone.vocabulary.embed(GOOD, 8)

    def change(stack, logits, training):
        if (where == "training") != training:
            return logits
        broken = [
            bool(mask.sum() == len(target) and (prompt[mask] - target).abs().max() < 0.05)
            for prompt, mask in zip(stack.prompts, stack.mask, strict=True)
        ]
        factor = torch.tensor([value if one else 1.0 for one in broken])
        return logits * factor[:, None, None]

    faulty(change)
    name = f"broken-{where}-{value}"
    _, state = play(runs, name, [GOOD, OTHER])
    assert state.lane_steps == 20 and state.restarts.tally.diverged == 1
    (outcome,) = [event for event in runs.events(name, "outcome") if event["outcome"] == "diverged"]
    assert outcome["words"] == GOOD
    for line in (runs.root / name / "history.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(constant) if where == "scoring" else None)
    assert state.dev.loss < math.inf and not any(map(math.isnan, state.lanes[0].prompt.detach().flatten().tolist()))


def test_the_incumbents_own_breakdown_ends_the_run_and_names_what_is_kept(tmp_path, context):
    calls = []

    def change(_, logits, training):
        calls.append(training)
        return logits * (math.nan if training and calls.count(True) > 14 else 1.0)

    from trainer import api

    hooks = Hooks(load=lambda *_: Faulty(context.backbone, change))
    with pytest.raises(
        UserError, match=r"NaN or infinite after 14 lane-steps.*the best prompt before .* is in .*/best"
    ):
        api.run(make_settings(folder=str(tmp_path), name="wild"), hooks=hooks)
    assert (tmp_path / "wild/best/best.safetensors").is_file() and not (tmp_path / "wild/summary.json").exists()


def test_lanes_that_do_not_fit_into_memory_together_go_through_in_parts(runs, faulty):
    def change(stack, logits, training):
        if training and len(stack.prompts) > 1:
            raise RuntimeError(OUT_OF_MEMORY)
        return logits

    backbone = faulty(change)
    _, state = play(runs, "narrow", [GOOD, OTHER])
    assert state.lane_steps == 20 and state.lanes_per_pass == 1 and state.restarts.tally.trials == 2
    steps = runs.events("narrow", "step")
    assert max(len(event["lanes"]) for event in steps) > 1
    assert max(lanes for lanes, _ in backbone.passes) > 1


def test_parts_of_lanes_give_what_one_pass_gives(runs, faulty):
    """The same run, once in one pass and once lane by lane, takes the same steps but for rounding."""
    whole = play(runs, "in-one-pass", [GOOD, OTHER])

    def change(stack, logits, _):
        if len(stack.prompts) > 1:
            raise RuntimeError(OUT_OF_MEMORY)
        return logits

    faulty(change)
    parts = play(runs, "in-parts", [GOOD, OTHER])
    for one, other in zip(whole[1].lanes, parts[1].lanes, strict=True):
        torch.testing.assert_close(one.prompt, other.prompt, atol=1e-4, rtol=1e-4)


def test_one_lane_that_does_not_fit_is_one_line():
    state = RunState([], None, Trajectory(), None, None)

    def fail(_):
        raise RuntimeError(OUT_OF_MEMORY)

    with pytest.raises(UserError, match="one lane alone does not fit into memory; lower"):
        in_passes(state, [object(), object()], fail)
    with pytest.raises(RuntimeError, match="shapes"):
        in_passes(state, [object()], lambda _: (_ for _ in ()).throw(RuntimeError("shapes differ")))


def test_the_gradient_of_the_start_takes_no_more_rows_at_once_than_a_step(runs, faulty):
    backbone = faulty(lambda _, logits, __: logits)
    runs.tune(
        "probed", propose=answer_once(GOOD), optimizer={"batch_size": 8}, restarts={"policy": "trial", "source": "bus"}
    )
    rows = len(runs.context.task.train.examples)
    before_first_step = [size for _, size in backbone.passes if size != len(runs.context.task.dev.examples)]
    assert rows < PROBE_ROWS and max(before_first_step) <= 8


@pytest.mark.usefixtures("loaded")
def test_a_full_disk_does_not_end_training_and_the_exit_status_says_so(tmp_path):
    ended = run_with_little_disk(tmp_path, 6_000)
    line = ended.refused()
    assert "cannot be saved" in line and "free some space" in line
    assert "cannot be saved" in ended.out and "step 24/24" in ended.out


@pytest.mark.usefixtures("loaded")
def test_a_disk_that_is_full_at_the_start_is_one_line_and_leaves_nothing(tmp_path):
    assert "cannot be written" in run_with_little_disk(tmp_path, 100).refused()
    assert not list(tmp_path.iterdir())


def run_with_little_disk(folder, most):
    """A limit on the size of files stands for the disk: beyond `most` bytes they stop growing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        return run_program(
            main, "demo", "--folder", folder, "--name", "full", "--task.labels", json.dumps(LABELS), *SHORT_DEMO
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_lane_is_float32_whatever_its_start_was():
    from trainer.search.lanes import open_lane

    lane: Lane = open_lane(
        0, torch.ones(2, 3, dtype=torch.float16), {"w": torch.ones(1).bfloat16()}, (), make_settings()
    )
    assert lane.prompt.dtype == lane.head["w"].dtype == torch.float32


@pytest.mark.parametrize("policy", ["greedy", "trial", "always"])
def test_the_incumbent_is_measured_in_the_pass_of_the_candidates_that_are_compared_with_it(runs, faulty, policy):
    backbone = faulty(lambda _, logits, __: logits)
    play(runs, f"measured-{policy}", [GOOD, OTHER], policy=policy)
    rows = len(runs.context.task.dev.examples)
    assert next(lanes for lanes, size in backbone.passes if size == rows and lanes > 1) == 3
