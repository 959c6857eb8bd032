"""Batches: every row once an epoch, a function of seed and step, of similar length where lengths are given."""

import pytest
import torch

from trainer.search.batches import batch_indices

SIZE, EXAMPLES = 16, 500
STEPS = 32  # an epoch's
LENGTHS = torch.randint(4, 128, (EXAMPLES,), generator=torch.Generator().manual_seed(5))


def epoch(number, seed=1, lengths=LENGTHS):
    return [batch_indices(number * STEPS + step, SIZE, EXAMPLES, seed, lengths) for step in range(STEPS)]


def padded(batches):
    return sum(len(rows) * int(LENGTHS[rows].max()) for rows in batches)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["shuffled", "by length"])
def test_an_epoch_sees_every_row_once(lengths):
    batches = epoch(1, lengths=lengths)

    assert sorted(torch.cat(batches).tolist()) == list(range(EXAMPLES))
    assert sorted(map(len, batches)) == [EXAMPLES % SIZE, *[SIZE] * (STEPS - 1)]


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["shuffled", "by length"])
def test_a_step_can_be_asked_for_out_of_order(lengths):
    before = [rows.tolist() for rows in epoch(0, lengths=lengths)]
    batch_indices(STEPS * 7, SIZE, EXAMPLES, 2, lengths)  # what is kept of the first epoch is dropped
    batch_indices(STEPS * 8, SIZE, EXAMPLES, 2, lengths)
    again = [
        batch_indices(step, SIZE, EXAMPLES, 1, None if lengths is None else lengths.clone()) for step in range(STEPS)
    ]

    assert [rows.tolist() for rows in again] == before


def test_without_lengths_batches_are_the_slices_of_one_permutation():
    order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(3 * 1_000_003 + 2))

    assert torch.equal(torch.cat(epoch(2, seed=3, lengths=None)), order)


def test_batches_of_similar_length_hardly_pad():
    real = int(LENGTHS.sum())

    assert padded(epoch(0)) < 1.15 * real < padded(epoch(0, lengths=None))


def test_batches_of_similar_length_come_in_any_order_and_never_twice():
    means = torch.stack([LENGTHS[rows].float().mean() for rows in epoch(0)])
    rising = (means.diff() > 0).float().mean()
    met = {frozenset(rows.tolist()) for rows in epoch(0)}

    assert 0.2 < rising < 0.8
    assert met.isdisjoint(frozenset(rows.tolist()) for rows in epoch(1))
    assert met.isdisjoint(frozenset(rows.tolist()) for rows in epoch(0, seed=2))


def test_the_short_batch_is_of_any_length():
    short = [LENGTHS[min(epoch(number), key=len)].float().mean() for number in range(20)]

    assert min(short) < 50 < 80 < max(short)
