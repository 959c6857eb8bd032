"""The head of a classification model, apart from its frozen part."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class _Passthrough(nn.Module):
    """Takes the place of the frozen model inside its classification model, of which the head remains.

    It passes on hidden states, and what the frozen model's own pooler makes of them.
    """

    def __init__(self, base: Any) -> None:
        super().__init__()
        pooler = getattr(base, "pooler", None)
        if isinstance(pooler, nn.Linear):  # of ALBERT and BigBird; the activation is another attribute
            linear, activation = pooler, getattr(base, "pooler_activation", None) or base.activation
            pooler = lambda hidden: activation(linear(hidden[:, 0]))  # noqa: E731
        self._pool = (pooler,)  # in a tuple, because it is frozen and not a part of the head

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPooling:
        (pool,) = self._pool
        pooled = pool(inputs_embeds).float() if pool else None
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds.float(), pooler_output=pooled)


def cut_head(model: PreTrainedModel) -> Any:
    """The classification model without its frozen part."""
    setattr(model, model.base_model_prefix, _Passthrough(model.base_model))
    vars(model).pop("is_quantized", None)  # the frozen part was, and transformers would not convert the rest
    return model


def initialise(head: Any, seed: int) -> dict[str, Tensor]:
    """Fresh parameters of a head by name, float32 on the processor, as the model's authors initialise them."""
    fresh = copy.deepcopy(head).cpu().float()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed also seeds GPUs, from which dropout draws
        fresh.apply(fresh._init_weights)
    return {name: value.detach() for name, value in fresh.named_parameters()}
