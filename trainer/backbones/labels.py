"""Label words as a model reads them: every class needs some of its own."""

from collections.abc import Hashable, Mapping

from torch import Tensor

from shared.errors import UserError
from trainer.backbones.vocabulary import Vocabulary


def encode_labels(labels: list[str], vocabulary: Vocabulary, max_tokens: int) -> list[Tensor]:
    """Token ids [tokens] of each label.

    Raises:
        UserError: a label has no token, or two labels have the same.
    """
    ids = [vocabulary.encode(label, max_tokens) for label in labels]
    check_distinct({label: tuple(tokens.tolist()) for label, tokens in zip(labels, ids, strict=True)})
    return ids


def check_distinct(labels: Mapping[str, Hashable]) -> None:
    """Refuse labels that are nothing to the model, or the same as another; both by what the model reads of them.

    Raises:
        UserError: there are such labels.
    """
    known: dict[Hashable, str] = {}
    for label, text in labels.items():
        if not text:
            raise UserError(f"label {label!r} (task.labels) has no words that the model knows; name it in other words")
        if text in known:
            raise UserError(
                f"labels {known[text]!r} and {label!r} (task.labels) are the same tokens to the model; "
                "give them the same words if they are one class, or words that differ in more than case and spaces"
            )
        known[text] = label
