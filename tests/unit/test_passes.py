"""Passes in chunks: the same outputs and gradients as one pass, in the memory of a chunk."""

from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
from autograd import kept_bytes
from conftest import make_settings
from small_decoders import TEXTS, decoder, prepare, prompts, save_small_decoder
from torch import nn

from shared.errors import UserError
from shared.health import Health
from trainer.backbones.passes import after_each_chunk, max_pass_positions, run_chunks
from trainer.backbones.stack import stack
from trainer.execution import tune_and_test
from trainer.hooks import Hooks
from trainer.runs.directory import RunDirectory
from trainer.runs.metrics import TrainerMetrics


def test_chunks_keep_no_activations_and_give_the_gradient_of_one_pass():
    torch.manual_seed(0)
    layers = nn.Sequential(*(module for _ in range(4) for module in (nn.Linear(32, 32), nn.GELU()))).requires_grad_(
        False
    )
    rows = torch.randn(64, 32)
    kept, gradients = [], []
    for count in (1, 2, 8):
        prompt = torch.ones(32, requires_grad=True)
        chunks = [part + prompt for part in rows.chunk(count)]
        with kept_bytes() as sizes:
            outputs = torch.cat(run_chunks(layers, chunks))
        kept.append(sum(sizes))
        outputs.square().sum().backward()
        gradients.append(prompt.grad)
    assert max(kept[1:]) * 4 < kept[0]
    torch.testing.assert_close(gradients[1:], gradients[:1] * 2)


def test_without_gradients_nothing_is_computed_twice():
    calls = []

    def run(chunk):
        calls.append(chunk)
        return torch.zeros(1)

    with torch.no_grad():
        run_chunks(run, [1, 2, 3])
    assert calls == [1, 2, 3]


@pytest.mark.parametrize("positions", [1, 60])
def test_a_decoder_in_little_memory_gives_the_same(tmp_path, positions):
    model = decoder(save_small_decoder("llama", tmp_path))
    lanes, rows = prompts(model, 3, 5), prepare(model, *TEXTS)
    found = []
    for limit in (model._memory_positions, positions):
        model._memory_positions = limit
        with kept_bytes() as sizes:
            scores = model.logits(stack(lanes), rows)
        found.append((scores, *torch.autograd.grad(scores[..., 0].sum(), lanes), sum(sizes)))
    (*whole, all_kept), (*parts, few_kept) = found
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)
    assert few_kept * 4 < all_kept


def test_a_wider_or_deeper_model_gets_fewer_positions():
    from transformers import BertConfig

    small, deep, wide = (
        max_pass_positions(BertConfig(**sizes), torch.device("cpu"), torch.float32)
        for sizes in ({}, {"num_hidden_layers": 24}, {"hidden_size": 1536})
    )
    assert small == pytest.approx(2 * deep, rel=0.01) == pytest.approx(2 * wide, rel=0.01)


def test_each_chunk_of_a_long_pass_is_a_beat():
    beats = []
    with after_each_chunk(lambda: beats.append(1)):
        run_chunks(torch.neg, torch.randn(6, 2).chunk(3))
        assert len(beats) == 3
    run_chunks(torch.neg, torch.randn(6, 2).chunk(3))
    assert len(beats) == 3


def test_each_part_of_the_start_is_a_beat(tmp_path):
    now, silent = [0.0], []
    health = Health(60.0, clock=lambda: now[0])

    def take_long():
        silent.append(health.report()[1]["seconds_since_beat"])
        now[0] += 50.0

    def prepare(*_):
        take_long()
        raise UserError("seen enough")

    def load(*_):
        take_long()
        return SimpleNamespace(vocabulary=SimpleNamespace(fingerprint=""), prepare=prepare)

    settings = make_settings(folder=str(tmp_path))
    now[0] += 50.0  # the import of torch
    metrics = TrainerMetrics(recipe="demo", run="r")
    with closing(RunDirectory.create(settings)) as directory, pytest.raises(UserError, match="seen enough"):
        tune_and_test(directory, settings, None, None, Hooks(load=load), metrics, health)
    assert silent == [0.0, 0.0]
