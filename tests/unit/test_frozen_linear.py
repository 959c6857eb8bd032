"""Frozen linear layers: what oneDNN multiplies is what torch multiplies."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from trainer.backbones.frozen_linear import CACHES, FrozenLinear, use_onednn

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


def frozen(bias=True):
    torch.manual_seed(0)
    return nn.Linear(24, 40, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (7, 24), (3, 5, 24), (2, 3, 1, 24), (0, 24), (3, 0, 24)])
def test_outputs_and_gradients_are_those_of_torch(bias, shape):
    layer = frozen(bias)
    x = torch.randn(shape, requires_grad=True)
    y = FrozenLinear(layer)(x)
    weights = torch.randn_like(y)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    expected = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * weights).sum(), x)[0], rtol=1e-5, atol=1e-5)


def test_memory_order_does_not_matter():
    layer = frozen()
    x = torch.randn(24, 6, requires_grad=True)
    y = FrozenLinear(layer)(x.T)
    torch.testing.assert_close(y, layer(x.T), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(y.sum(), x)  # of a sum: one number, expanded without memory of its own
    torch.testing.assert_close(gradient, layer.weight.sum(0)[:, None].expand(24, 6), rtol=1e-5, atol=1e-5)


def test_outputs_can_be_changed_in_place():
    layer = frozen()
    x = torch.randn(2, 3, 24, requires_grad=True)
    y = FrozenLinear(layer)(x)
    y /= 2.0
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, (layer.weight.sum(0) / 2).expand(2, 3, 24), rtol=1e-5, atol=1e-5)


def test_frozen_layers_alone_are_replaced_and_share_their_weights():
    class Subclass(nn.Linear):
        pass

    layers = {"frozen": frozen(), "trained": nn.Linear(3, 3), "short": frozen().bfloat16(), "other": Subclass(3, 3)}
    model = nn.ModuleDict({"inner": nn.ModuleDict(layers)})
    before = model.state_dict()
    use_onednn(model)
    assert {name: type(layer) for name, layer in model["inner"].items()} == {
        "frozen": FrozenLinear,
        "trained": nn.Linear,
        "short": nn.Linear,
        "other": Subclass,
    }
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[name].data_ptr() == value.data_ptr() for name, value in before.items())


@pytest.mark.slow
def test_few_shapes_stay_compiled(monkeypatch):
    """Each takes half a MiB. A process of its own, because the limit is read once."""
    code = """
import torch
from trainer.backbones.frozen_linear import use_onednn
model = torch.nn.Sequential(torch.nn.Linear(16, 16).requires_grad_(False))
use_onednn(model)
with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON_CREATION):
    for rows in 2 * [*range(1, 141)]:
        model(torch.ones(rows, 16))
"""
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.count("create:cache_miss") == 2 * 140  # with room for all, the second round compiles nothing
