"""The pool: what a run found is its best lane, or a mean that the development split likes better."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from trainer.search.evaluation import EncodedSplit, EvalResult, evaluate
from trainer.search.pool import SIZE, Pool, Snapshot


class Plain:
    """A backbone whose class vectors are the prompt itself, [classes, dim]."""

    def class_embeddings(self, stack):
        return normalize(stack.prompts, dim=-1)

    def classify(self, class_embeddings, examples):
        return examples @ class_embeddings.transpose(-1, -2) / 0.2


BACKBONE = Plain()


def examples(seed=0, count=30, classes=3):
    generator = torch.Generator().manual_seed(seed)
    inputs = normalize(torch.randn(count, 5, generator=generator), dim=-1)
    return EncodedSplit(inputs, torch.randint(classes, (count,), generator=generator))


def snapshot(number, prompt, dev):
    found = evaluate(BACKBONE.classify(normalize(prompt, dim=-1)[None], dev.inputs), dev.targets)[0]
    return Snapshot(number, number * 10, prompt, {}, (), found)


def filled(seed, dev, count=6):
    pool, generator = Pool(), torch.Generator().manual_seed(seed)
    for number in range(count):
        pool.add(snapshot(number, torch.randn(3, 5, generator=generator), dev))
    return pool


def losses(prompt, dev):
    return cross_entropy(dev.inputs @ normalize(prompt, dim=-1).T / 0.2, dev.targets, reduction="none").double()


@given(st.integers(0, 10_000))
def test_the_result_is_worse_than_the_best_lane_by_a_standard_error_at_most_and_what_it_says_is_measured(seed):
    dev = examples(seed)
    pool = filled(seed, dev)
    best = min(pool.snapshots, key=lambda kept: kept.dev.loss)
    result = pool.result(BACKBONE, dev, average=True)
    assert result.members[0] is best
    mean = normalize(sum(normalize(member.prompt, dim=-1) for member in result.members), dim=-1)
    torch.testing.assert_close(result.tuned.class_embeddings, mean)
    difference = losses(mean, dev) - losses(best.prompt, dev)
    assert result.dev.loss == pytest.approx(losses(mean, dev).mean().item(), abs=1e-5)
    if len(result.members) == 2:
        assert difference.mean() <= difference.std() / len(difference) ** 0.5 + 1e-6


@pytest.mark.parametrize("count, members", [(20, 2), (100_000, 1)])
def test_a_lane_that_few_rows_call_worse_joins_the_mean_and_one_that_many_do_does_not(count, members):
    generator, classes = torch.Generator().manual_seed(1), torch.eye(3, 5)
    targets = torch.arange(count) % 3
    inputs = normalize(classes[targets] + torch.randn(count, 5, generator=generator), dim=-1)
    dev, pool = EncodedSplit(inputs, targets), Pool()
    pool.add(snapshot(1, classes, dev))
    pool.add(snapshot(2, classes + 0.2 * classes.roll(1, 0), dev))
    both = normalize(sum(normalize(kept.prompt, dim=-1) for kept in pool.snapshots), dim=-1)
    assert losses(both, dev).mean() > pool.snapshots[0].dev.loss
    assert len(pool.result(BACKBONE, dev, average=True).members) == members


def test_a_lane_is_kept_once_at_its_best():
    dev, generator = examples(), torch.Generator().manual_seed(3)
    pool = filled(4, dev)
    lane = [replace(snapshot(7, torch.randn(3, 5, generator=generator), dev), step=step) for step in range(5)]
    for one in lane:
        pool.add(one)
    kept = [one for one in pool.snapshots if one.lane == 7]
    assert len(kept) == 1 and kept[0].dev.loss == min(one.dev.loss for one in lane)
    assert len(pool.snapshots) == 7
    assert [one.dev.loss for one in pool.snapshots] == sorted(one.dev.loss for one in pool.snapshots)


@given(st.integers(0, 10_000))
def test_without_averaging_it_is_the_best_lane(seed):
    dev = examples(seed)
    pool = filled(seed, dev)
    result = pool.result(BACKBONE, dev, average=False)
    best = min(pool.snapshots, key=lambda kept: kept.dev.loss)
    assert result.members == [best] and result.dev == best.dev and result.kind.startswith("best")
    torch.testing.assert_close(result.tuned.class_embeddings, normalize(best.prompt, dim=-1))


def test_a_mean_is_taken_where_it_is_better():
    good = torch.eye(3, 5)
    dev = EncodedSplit(torch.eye(3, 5), torch.arange(3))
    off = torch.zeros(3, 5)
    off[:, 3] = 1.0
    pool = Pool()
    pool.add(snapshot(1, good + off, dev))
    pool.add(snapshot(2, good - off, dev))
    result = pool.result(BACKBONE, dev, average=True)
    assert len(result.members) == 2 and "2" in result.kind
    torch.testing.assert_close(result.tuned.class_embeddings, good)
    assert result.dev.loss < pool.snapshots[0].dev.loss


def test_a_mean_is_not_taken_where_it_is_worse():
    dev = EncodedSplit(torch.eye(3, 5), torch.arange(3))
    pool = Pool()
    pool.add(snapshot(1, torch.eye(3, 5), dev))
    pool.add(snapshot(2, -torch.eye(3, 5), dev))
    assert pool.result(BACKBONE, dev, average=True).kind.startswith("best")


def test_the_pool_keeps_the_best_and_no_more_than_its_size():
    pool = Pool()
    losses = [(number * 7) % 40 / 10 for number in range(40)]
    for number, loss in enumerate(losses):
        pool.add(Snapshot(number, 0, torch.zeros(1, 1), {}, (), EvalResult(loss, 0.5)))
    assert [kept.dev.loss for kept in pool.snapshots] == sorted(losses)[:SIZE]


def test_a_measurement_is_cross_entropy_and_accuracy_of_each_lane():
    logits = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    for lane, found in zip(logits, evaluate(logits, targets), strict=True):
        assert found.loss == pytest.approx(cross_entropy(lane, targets).item(), abs=1e-6)
        assert found.accuracy == pytest.approx((lane.argmax(-1) == targets).sum().item() / 7)
