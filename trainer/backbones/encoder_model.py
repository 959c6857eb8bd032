"""Loading an encoder from a folder or the hub, and what fits into it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import get_verbosity, set_verbosity

from shared.errors import UserError, first_line
from shared.settings import BackboneSettings, PromptSettings
from trainer.paths import find_model


def load_tokenizer(settings: BackboneSettings) -> Any:
    """The tokenizer of an encoder.

    Raises:
        UserError: there is none, or it is not an encoder's.
    """
    name = find_model(settings)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _refuse(settings, f"has no tokenizer that can be loaded: {first_line(error)}") from None
    if tokenizer.cls_token_id is None or tokenizer("a")["input_ids"][0] != tokenizer.cls_token_id:
        raise _refuse(settings, "is no encoder, its texts do not begin with a [CLS]; for a causal LM use decoder")
    return tokenizer


def load_classifier(settings: BackboneSettings, outputs: int) -> Any:
    """The classification model with the settings' dropout and a head of so many outputs, float32.

    Raises:
        UserError: there is no such model, or it is no encoder.
    """
    name = find_model(settings)
    try:
        config = AutoConfig.from_pretrained(name, num_labels=outputs)
        for key in [key for key, value in config.to_dict().items() if "dropout" in key and value is not None]:
            setattr(config, key, settings.dropout)
        with _without_report():
            model, found = AutoModelForSequenceClassification.from_pretrained(
                name, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise _refuse(settings, f"cannot be loaded as an encoder: {first_line(error)}") from None
    if config.is_encoder_decoder or getattr(config, "is_decoder", False):
        raise _refuse(settings, "is no encoder but a decoder")
    lacking = sorted(key for key in found["missing_keys"] if key.startswith(f"{model.base_model_prefix}."))
    if lacking:
        raise _refuse(settings, f"lacks weights of its frozen part, {lacking[0]} for one")
    return model


@contextmanager
def _without_report() -> Iterator[None]:
    """Silences a warning of the head, which no pretrained model has; what else is missing is refused here."""
    before = get_verbosity()
    set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        set_verbosity(before)


def _refuse(settings: BackboneSettings, reason: str) -> UserError:
    key = "path" if settings.path else "hub"
    return UserError(f"backbone.{key} = {getattr(settings, key)!r} {reason}")


def most_tokens(model: Any, tokenizer: Any, settings: BackboneSettings, prompt: PromptSettings) -> int:
    """Tokens that a text may have beside the longest prompt.

    Raises:
        UserError: there is no room.
    """
    most = min(settings.max_tokens, _longest(model) - prompt.num_tokens)
    if most < tokenizer.num_special_tokens_to_add(pair=True) + 2:
        raise _refuse(
            settings,
            f"has {_longest(model)} positions: backbone.max_tokens = {settings.max_tokens} "
            f"and prompt.num_tokens = {prompt.num_tokens} leave no room for a text",
        )
    return most


def _longest(model: Any) -> int:
    """The longest sequence that a model takes."""
    for name, module in model.base_model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from there
            return module.num_embeddings - unused
    return getattr(model.config, "max_position_embeddings", 1_000_000)
