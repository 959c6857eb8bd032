"""Random views of training images, read and cropped ahead of training by other processes."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.errors import UserError
from trainer.backbones.augment import random_view
from trainer.tasks.examples import Example

Place = tuple[int, int]
"""An iteration and a row."""


@dataclass
class Views(Dataset[Tensor | UserError]):
    """The view of each row in each iteration: a function of the seed and these two."""

    examples: list[Example]
    read: Callable[[Example], Image.Image]
    to_pixels: Callable[[list[Image.Image]], Tensor]
    side: int
    seed: int

    def __getitem__(self, place: Place) -> Tensor | UserError:
        """Pixels [channels, side, side]; an error is returned, because DataLoader changes those that are raised."""
        iteration, row = place
        try:
            image = self.read(self.examples[row])
        except UserError as error:
            return error
        return self.to_pixels([random_view(image, self.side, Random(f"{self.seed} {iteration} {row}"))])[0]

    def batches(self, rows: Iterator[tuple[int, Tensor]], workers: int) -> Iterator[Tensor]:
        """Pixels [n, channels, side, side] of the views of each batch, given by iteration and rows [n].

        Raises:
            UserError: an image cannot be read.
        """
        places: Any = ([(iteration, row) for row in batch.tolist()] for iteration, batch in rows)
        loader = DataLoader(
            self, batch_sampler=places, num_workers=workers, collate_fn=_join, worker_init_fn=_leave_signals_alone
        )
        for found in loader:
            if isinstance(found, UserError):
                raise found
            yield found


def _join(found: list[Tensor | UserError]) -> Tensor | UserError:
    faults = [one for one in found if isinstance(one, UserError)]
    return faults[0] if faults else torch.stack([one for one in found if isinstance(one, Tensor)])


def _leave_signals_alone(_: int) -> None:
    """The trainer, which saves first, ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
