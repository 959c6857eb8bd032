"""How a frozen model is loaded, for every family: type of its weights, attention, devices, quantization."""

import logging
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import BitsAndBytesConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from shared.errors import UserError
from shared.settings import BackboneSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def frozen_dtype(settings: BackboneSettings, device: torch.device) -> torch.dtype:
    """What frozen weights are kept in; bfloat16 takes half the memory and time on CUDA."""
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[settings.dtype]


def load_options(settings: BackboneSettings, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained`.

    Raises:
        UserError: quantization needs a package that is not installed.
    """
    options: dict[str, Any] = {"dtype": frozen_dtype(settings, device)}
    if settings.attention != "auto":
        options["attn_implementation"] = settings.attention
    if settings.device_map:
        options["device_map"] = settings.device_map
    if settings.quantization:
        if find_spec("bitsandbytes") is None:
            raise UserError(
                f"backbone.quantization = {settings.quantization!r} needs the package bitsandbytes; pip install it"
            )
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it repeats its hints in each pass
        options["device_map"] = settings.device_map or {"": str(device)}
        options["quantization_config"] = (
            BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
            if settings.quantization == "int8"
            else BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=options["dtype"]
            )  # type: ignore[no-untyped-call]
        )
    return options


def freeze(model: Any, settings: BackboneSettings, device: torch.device) -> None:
    """Put a loaded model in evaluation mode without gradients, on `device` unless it was placed by a map."""
    if not (settings.device_map or settings.quantization):
        model.to(device)
    model.eval().requires_grad_(False)
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):  # of bitsandbytes, whose kernel for it gives no gradient
            layer.support_avx512bf16_for_cpu = False
    if settings.checkpointing:
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.forward = partial(_run_again, layer.forward)


def _run_again(layer: Any, *inputs: Any, **options: Any) -> Tensor:
    """A layer whose activations are computed again for the backward pass (Chen et al. 2016).

    The switch in transformers works in training mode alone, which also turns dropout on. A cache would grow twice.
    """
    if not torch.is_grad_enabled() or options.get("past_key_values") is not None:
        outputs: Tensor = layer(*inputs, **options)
    else:
        outputs = checkpoint(layer, *inputs, use_reentrant=False, **options)
    return outputs
