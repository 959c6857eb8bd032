"""Masks of dropout: the right share, independent, scaled, the same in the gradient; attention as torch's own."""

import pytest
import torch
from small_encoders import save_small_encoder
from transformers import AutoModel

from trainer.backbones.fast_dropout import FastDropout, fast_dropout, use_fast_dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_a_share_of_the_elements_is_dropped_and_the_others_keep_the_mean(p):
    torch.manual_seed(0)
    x = torch.ones(1_000_000)
    y = fast_dropout(x, p)
    assert y.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)], rel=1e-4)
    assert (y == 0).double().mean() == pytest.approx(p, abs=5 * (p * (1 - p) / len(x)) ** 0.5)


def test_elements_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (fast_dropout(torch.ones(1000, 1003), 0.1) == 0).double()
    between = torch.corrcoef(torch.stack([dropped.roll(shift, 1).flatten() for shift in range(9)]))[0, 1:]
    rows = torch.corrcoef(torch.stack([dropped.roll(shift, 0).flatten() for shift in (0, 1, 2)]))[0, 1:]
    assert max(between.abs().max(), rows.abs().max()) < 5 / 1e3
    again = (fast_dropout(torch.ones(1000, 1003), 0.1) == 0).double()
    assert torch.corrcoef(torch.stack([dropped.flatten(), again.flatten()]))[0, 1].abs() < 5 / 1e3


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 7), (0, 4)])
def test_the_gradient_is_dropped_where_the_output_is(shape):
    x = torch.ones(shape, requires_grad=True)
    y = fast_dropout(x, 0.4)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


def test_a_seed_repeats_the_masks_and_each_call_draws_others():
    def masks():
        torch.manual_seed(3)
        return [fast_dropout(torch.ones(64), 0.5).tolist() for _ in range(2)]

    first, second = masks()
    assert masks() == [first, second]
    assert first != second


def test_outside_training_nothing_is_dropped():
    x = torch.ones(100)
    assert FastDropout(0.5).eval()(x) is x
    assert (FastDropout(0.5).train()(x) == 0).any()


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_attention_without_its_masks_is_the_models_own(kind, tmp_path, monkeypatch):
    plain = AutoModel.from_pretrained(save_small_encoder(kind, tmp_path)).requires_grad_(False)
    model = AutoModel.from_pretrained(save_small_encoder(kind, tmp_path)).requires_grad_(False)
    use_fast_dropout(model.eval())
    assert not any(part.training for part in model.modules())
    monkeypatch.setattr("trainer.backbones.fast_dropout.fast_dropout", lambda input, _: input)
    embeds = torch.randn(3, 6, plain.get_input_embeddings().embedding_dim)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    outputs = []
    for one in (plain.eval(), model.train()):
        start = embeds.clone().requires_grad_()
        states = one(inputs_embeds=start, attention_mask=mask).last_hidden_state
        states[mask.bool()].sin().sum().backward()
        outputs.append((states[mask.bool()], start.grad))
    for ours, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
