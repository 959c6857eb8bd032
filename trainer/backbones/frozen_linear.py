"""Linear layers of a frozen model on a processor, multiplied by oneDNN.

torch leaves float32 products on a processor to MKL, which uses half of an AMD processor's vector width; oneDNN uses
all of it. The layers keep their weights, so nothing is stored twice.
"""

import os
from typing import Any

import torch
from torch import Tensor, nn

MAX_PRIMITIVES = 128
"""Products that stay compiled for their shapes, in half a MiB each or more. A step needs a few; candidates and batches
of many lengths need hundreds, and with the libraries' own limit of 1,024 a trainer grows by up to 0.8 GiB."""

CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Variables with the limits of oneDNN and of torch's layer above it, which read them at their first product."""


class FrozenLinear(nn.Linear):
    """A linear layer whose weights get no gradient."""

    def __init__(self, layer: nn.Linear) -> None:
        """Share the weights of `layer`."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input: Tensor) -> Tensor:
        """Outputs [..., out_features] of `input` [..., in_features]."""
        rows = input.reshape(-1, self.in_features)  # else the output is a view, which models cannot change in place
        output: Tensor = _Product.apply(rows, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return output.view(*input.shape[:-1], self.out_features)


class _Product(torch.autograd.Function):
    """`input @ weight.T + bias` for an input [rows, in_features], with a gradient for it alone."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _multiply(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _multiply(gradients[0], weight.T, None), None, None


def _multiply(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # The operator behind torch.compile's linear layers; public ones take tensors in oneDNN's own layout, by a copy.
    product: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return product


def use_onednn(model: nn.Module) -> None:
    """Replace the float32 linear layers of a frozen model on a processor, where torch was built with oneDNN.

    Layers that a device map has given hooks, which move their inputs, stay.
    """
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return
    for variable in CACHES:
        os.environ.setdefault(variable, str(MAX_PRIMITIVES))
    for name, layer in list(model.named_modules()):
        plain = type(layer) is nn.Linear and not hasattr(layer, "_hf_hook")
        if plain and not layer.weight.requires_grad and _on_processor(layer.weight):
            model.set_submodule(name, FrozenLinear(layer))


def _on_processor(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32
