"""RMSNorm of a frozen decoder as torch's one kernel; transformers writes it out in eight, and more for the gradient."""

from typing import Any

from torch import nn

NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
"""Classes that compute what `nn.RMSNorm` does: x / rms(x) in float32, times the weight."""


def use_fused_norm(model: Any) -> None:
    """Replace the RMSNorms of a frozen model, on a GPU, by those of torch over the same weights.

    Layers that a device map has given hooks, which move their inputs, stay.
    """
    if model.device.type == "cuda":
        replace_norms(model)


def replace_norms(model: nn.Module) -> None:
    """Replace them on any device."""
    for name, layer in list(model.named_modules()):
        if type(layer).__name__ in NORMS and not hasattr(layer, "_hf_hook"):
            weight: Any = layer.weight
            norm = nn.RMSNorm(weight.shape, eps=layer.variance_epsilon, device="meta")
            norm.weight = weight
            model.set_submodule(name, norm)
