"""Loading an encoder from a folder or the hub, and what fits into it."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from shared.errors import UserError
from shared.settings import BackboneSettings, PromptSettings
from trainer.backbones.model_files import SAFE, check_files, check_loaded, refusing, setting_of
from trainer.backbones.model_inputs import max_positions

HINT = "copy the model again or choose another"


def load_tokenizer(settings: BackboneSettings) -> Any:
    """The tokenizer of an encoder.

    Raises:
        UserError: there is none, or it is not an encoder's.
    """
    name = check_files(settings)
    with refusing(settings, "has no tokenizer that can be loaded", HINT):
        tokenizer = AutoTokenizer.from_pretrained(name, **SAFE)
        is_encoder = tokenizer.cls_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.cls_token_id
    if not is_encoder:
        raise UserError(
            f"{setting_of(settings)} is not an encoder: its texts do not begin with a [CLS]; "
            "for a causal LM set backbone.family = 'decoder'"
        )
    return tokenizer


def load_classifier(settings: BackboneSettings, outputs: int, options: dict[str, Any]) -> Any:
    """The classification model with the settings' dropout and a fresh head of `outputs` outputs.

    `options` are those of `from_pretrained`.

    Raises:
        UserError: no such model, it is not an encoder, or weights of its frozen part are missing.
    """
    name = check_files(settings)
    load: Any = AutoModelForSequenceClassification.from_pretrained  # whose types leave out output_loading_info
    build: Any = AutoModelForSequenceClassification.from_config  # untyped in transformers
    with refusing(settings, "cannot be loaded as an encoder", HINT):
        config = AutoConfig.from_pretrained(name, num_labels=outputs, **SAFE)
        for key in [key for key, value in config.to_dict().items() if "dropout" in key and value is not None]:
            setattr(config, key, settings.dropout)
        if quantization := options.get("quantization_config"):  # not of the head, which is trained
            with torch.device("meta"):
                plain = build(config)
            parts = [name for name, _ in plain.named_children()]
            quantization.llm_int8_skip_modules = [name for name in parts if name != plain.base_model_prefix]
        checks = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, found = load(name, config=config, **options, **checks, **SAFE)
    if config.is_encoder_decoder or getattr(config, "is_decoder", False):
        raise UserError(f"{setting_of(settings)} is not an encoder but a decoder; set backbone.family = 'decoder'")
    check_loaded(settings, model, found, f"{model.base_model_prefix}.")
    return model


def max_text_tokens(model: Any, tokenizer: Any, settings: BackboneSettings, prompt: PromptSettings) -> int:
    """The most tokens of a text behind the longest prompt.

    Raises:
        UserError: no room is left for a text.
    """
    positions = max_positions(model)
    tokens = min(settings.max_tokens, positions - prompt.num_tokens)
    if tokens < tokenizer.num_special_tokens_to_add(pair=True) + 2:
        raise UserError(
            f"{setting_of(settings)} has {positions} positions: backbone.max_tokens = {settings.max_tokens} "
            f"and prompt.num_tokens = {prompt.num_tokens} leave no room for a text"
        )
    return tokens
