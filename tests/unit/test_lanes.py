"""Lanes: a stacked step is the separate steps, and nothing of one lane reaches another."""

import pytest
import torch

from shared.config import load
from trainer.backbones.stack import stack
from trainer.search.lanes import Origin, backward, open_lane, optimizer_step, stack_lanes, zero_grad

SETTINGS = load({"optimizer": {"lr": 0.05, "weight_decay": 0.1}}, "a test")
LENGTHS = (3, 1, 5)


def open_lanes(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(5)
    starts = [torch.randn(length, 4, generator=generator) for length in lengths]
    origin = (Origin("words", "some words", 0),)
    return [open_lane(number, start, {}, origin, SETTINGS) for number, start in enumerate(starts)]


def losses(stacked):
    """One loss a lane, not linear, over the positions that are there."""
    values = torch.sin(stacked.prompts * 3).sum(-1) * stacked.mask
    return values.sum(1) ** 2 / stacked.mask.sum(1)


def step(lanes):
    zero_grad(lanes)
    backward(losses(stack_lanes(lanes)))
    optimizer_step(lanes, SETTINGS.optimizer.lr)


def test_a_stack_holds_prompts_and_where_they_end():
    prompts = [lane.prompt for lane in open_lanes()]
    stacked = stack(prompts)
    assert stacked.prompts.shape == (3, 5, 4) and stacked.mask.shape == (3, 5)
    assert stacked.mask.sum(1).tolist() == list(LENGTHS)
    for row, mask, prompt in zip(stacked.prompts, stacked.mask, prompts, strict=True):
        assert torch.equal(row[mask], prompt)
        assert mask[: len(prompt)].all() and row[~mask].abs().sum() == 0


def test_a_stacked_step_is_the_separate_steps():
    together, alone = open_lanes(), open_lanes()
    for _ in range(6):
        step(together)
        for lane in alone:
            step([lane])
    for one, other, start in zip(together, alone, open_lanes(), strict=True):
        torch.testing.assert_close(one.prompt, other.prompt, atol=1e-6, rtol=1e-5)
        assert (one.prompt - start.prompt).abs().min() > 0.01


def test_a_step_lowers_the_loss_of_every_lane():
    lanes = open_lanes()
    before = losses(stack([lane.prompt for lane in lanes]))
    for _ in range(5):
        step(lanes)
    assert (losses(stack([lane.prompt for lane in lanes])) < before).all()


def test_a_lane_that_does_not_step_stays():
    lanes = open_lanes()
    step(lanes)
    resting = lanes[1].prompt.detach().clone()
    step([lanes[0], lanes[2]])
    step([lanes[0]])
    assert torch.equal(lanes[1].prompt, resting)
    assert [lane.age for lane in lanes] == [3, 1, 2]


def test_gradients_do_not_add_up_over_steps():
    (lane,) = open_lanes((2,))
    step([lane])
    at = lane.prompt.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(losses(stack([at])).sum(), at)
    step([lane])
    torch.testing.assert_close(lane.prompt.grad, expected)


def test_a_lane_leaves_its_start_untouched():
    start = torch.ones(2, 4)
    lane = open_lane(0, start, {}, (), SETTINGS)
    step([lane])
    assert torch.equal(start, torch.ones(2, 4)) and not torch.equal(lane.prompt, start)
    assert lane.age == 1


@pytest.mark.parametrize("examples", [1, 7, 32, 33])
def test_every_epoch_shows_every_example_once(examples):
    from trainer.search.batches import batch_indices

    steps = -(-examples // 8)
    orders = []
    for epoch in range(3):
        rows = [batch_indices(epoch * steps + index, 8, examples, seed=2) for index in range(steps)]
        assert all(len(row) == 8 for row in rows[:-1]) and 1 <= len(rows[-1]) <= 8
        orders.append(torch.cat(rows).tolist())
        assert sorted(orders[-1]) == list(range(examples))
    assert examples < 8 or orders[0] != orders[1]
    assert orders[0] == torch.cat([batch_indices(index, 8, examples, seed=2) for index in range(steps)]).tolist()
    assert (
        examples < 8 or orders[0] != torch.cat([batch_indices(i, 8, examples, seed=3) for i in range(steps)]).tolist()
    )
