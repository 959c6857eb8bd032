"""What a frozen model reads: the embeddings of its tokens, how many positions it has, whether its tokenizer fits."""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import UserError
from shared.settings import BackboneSettings
from trainer.backbones.model_files import HINT, NO_DRIVE, refusing, setting_of
from trainer.backbones.vocabulary import Vocabulary


def token_embeddings(settings: BackboneSettings, model: Any) -> Tensor:
    """The input embedding of every token, [vocabulary, dim]: the model's own table, unless the model scales it.

    Raises:
        UserError: the model has no table of embeddings.
    """
    with refusing(settings, NO_DRIVE, HINT):
        embed = model.get_input_embeddings()
        if type(embed) is nn.Embedding:
            return embed.weight.detach()
        vectors: Tensor = embed(torch.arange(embed.num_embeddings, device=embed.weight.device))
        return vectors.detach()


def max_positions(model: Any) -> int:
    """The most positions in one sequence; `sys.maxsize` where the model has no limit."""
    for name, module in model.base_model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from there
            return module.num_embeddings - unused
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else sys.maxsize


def check_tokenizer(
    settings: BackboneSettings, tokenizer: Any, vocabulary: Vocabulary, allow_special: bool = False
) -> None:
    """Refuse a tokenizer that does not fit the model, or from whose tokens no words can be made.

    Args:
        settings: name the model, for the error.
        tokenizer: by transformers.
        vocabulary: of the tokenizer and the model's embeddings.
        allow_special: special tokens may lack embeddings, because texts are cleared of them.

    Raises:
        UserError: a token has no embedding, or no token is a whole word.
    """
    rows = len(vocabulary.embeddings)
    beyond = {index: token for token, index in tokenizer.get_vocab().items() if index >= rows}
    if allow_special:
        beyond = {index: token for index, token in beyond.items() if index not in vocabulary.special_ids}
    if beyond:
        raise UserError(
            f"{setting_of(settings)}: the tokenizer's token {beyond[min(beyond)]!r} has the number {min(beyond)}, but "
            f"the model has embeddings for {rows} tokens; use the tokenizer.json that belongs to the weights"
        )
    if not vocabulary.words:
        raise UserError(
            f"{setting_of(settings)}: none of the tokenizer's {len(tokenizer)} tokens is a whole word, so that prompts "
            "cannot be put into words; use a model whose tokenizer knows words"
        )


def padding_token(tokenizer: Any) -> str:
    """The tokenizer's padding token, or one that can stand in for it, as padding is masked."""
    names = ("pad_token", "eos_token", "sep_token", "unk_token", "bos_token", "cls_token")
    found = (getattr(tokenizer, name, None) for name in names)
    return next((str(token) for token in found if token), tokenizer.convert_ids_to_tokens(0))
