"""Does a model read input embeddings as it reads tokens? Found out once, at load, with a few words."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from shared.errors import UserError
from shared.settings import BackboneSettings
from trainer.backbones.model_files import HINT, NO_DRIVE, refusing, setting_of

TOLERANCE = {torch.float32: (1e-3, 1e-5), torch.bfloat16: (0.2, 2e-2), torch.float16: (0.05, 5e-3)}
"""How far outputs may lie apart: the share of their spread and the share of their size, by the model's type."""


@contextmanager
def own_pass(settings: BackboneSettings) -> Iterator[None]:
    """For the passes over tokens that `probe` compares with: without gradients, and a failure is one line.

    Raises:
        UserError: something inside failed.
    """
    with refusing(settings, NO_DRIVE, HINT), torch.no_grad():
        yield


def probe(
    settings: BackboneSettings, words: Tensor, read: Callable[[Tensor], Tensor], expected: Tensor, dtype: torch.dtype
) -> None:
    """Refuse a model that reads the embeddings of words in another way than the words, or not at all.

    Args:
        settings: name the model, for the error.
        words: input embeddings of words, [words, dim].
        read: outputs [rows, outputs] of a model that reads embeddings in the place of `words`.
        expected: outputs of the model's own pass over the same words as tokens, for the first of these rows.
        dtype: of the model's weights.

    Raises:
        UserError: a pass failed, the outputs differ, or the embeddings have no gradient.
    """
    with refusing(settings, NO_DRIVE, HINT):
        with torch.no_grad():
            outputs = read(words).float()
        prompt = (1.01 * words.detach()).requires_grad_()  # near words: some models look up which words they were given
        moved = read(prompt).float()
        # Different weights, because the plain sum of normalised outputs is the same for every prompt.
        directions = torch.linspace(-1, 1, moved.numel(), device=moved.device).view_as(moved)
        torch.autograd.backward((moved * directions).sum())
    if not (outputs.isfinite().all() and moved.isfinite().all()):
        raise _refuse(settings, "its outputs for a few words are not finite")
    if prompt.grad is None or not prompt.grad.isfinite().all() or not prompt.grad.any():
        raise _refuse(settings, "its outputs have no gradient with respect to them")
    spread, size = TOLERANCE[torch.bfloat16 if settings.quantization else dtype]  # it rounds by all rows of a pass
    expected = expected.float()
    allowed = spread * (expected - expected.mean(-1, keepdim=True)).abs().max() + size * expected.abs().max()
    if (outputs[: len(expected)] - expected).abs().max() > allowed:
        raise _refuse(settings, "its outputs for the embeddings of words are not those for the words")


def _refuse(settings: BackboneSettings, reason: str) -> UserError:
    return UserError(f"{setting_of(settings)} {NO_DRIVE}: {reason}; {HINT}")
