"""A backbone family of one's own, tuned through the Python API: `python examples/own_backbone.py`.

A class text is the prompt and the label words; class and example are the means of their word vectors (no transformer),
compared by cosine. Each lane has a head of one number, the logarithm of the scale. The result's vectors are in `best/`;
`load` and `trainer.predict` know the packaged families only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from trainer import Hooks, Settings, run
from trainer.backbones.stack import Stack
from trainer.backbones.vocabulary import Vocabulary
from trainer.paths import find_model
from trainer.tasks.examples import Example, Task


@dataclass(frozen=True)
class Vectors:
    """Examples as vectors [examples, dim]."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Tensor) -> "Vectors":
        return Vectors(self.values[rows])


class MeanOfWords:
    """A `trainer.backbones.backbone.Backbone`: these attributes and methods are all that training asks for."""

    device = torch.device("cpu")
    num_contexts = 1

    def __init__(self, settings: Settings, task: Task) -> None:
        name = find_model(settings.backbone)
        words = AutoModel.from_pretrained(name).get_input_embeddings().weight.detach()
        self.vocabulary = Vocabulary(AutoTokenizer.from_pretrained(name), words)
        self._labels = torch.stack([self._mean(label) for label in task.labels])  # [classes, dim]

    def prepare(self, examples: list[Example], what: str, beat: Callable[[], None]) -> Vectors:
        """Encode examples once; what this returns comes back in `logits`, indexed by the rows of a batch."""
        return Vectors(torch.stack([self._mean(" ".join(example.choices[0])) for example in examples]))

    def lengths(self, rows: Vectors) -> None:
        """Token counts, where batches of similar length save work. Here every example is one vector."""

    def micro_batch(self, stack: Stack, rows: Vectors) -> int:
        """Examples per pass in training; here memory does not grow with them."""
        return len(rows)

    def new_head(self, seed: int) -> dict[str, Tensor]:
        """Trainable parameters besides the prompt, by name."""
        return {"scale": torch.tensor(3.0)}

    def logits(self, stack: Stack, rows: Vectors, training: bool = False) -> Tensor:
        """Class scores [lanes, examples, classes] of all lanes in one pass."""
        mask = stack.mask[..., None]
        prompts = (stack.prompts * mask).sum(1) / mask.sum(1)  # [lanes, dim]
        classes = normalize(prompts[:, None] + self._labels, dim=-1)  # [lanes, classes, dim]
        scales = torch.stack([head["scale"] for head in stack.heads]).exp()[:, None, None]
        return scales * (normalize(rows.values, dim=-1) @ classes.transpose(1, 2))

    def _mean(self, text: str) -> Tensor:
        return self.vocabulary.embed(text, 128).mean(0)


def main() -> None:
    """Tune a prompt of the demo's task."""
    restarts = {"source": "vocabulary", "trial_steps": 10, "patience": 0}
    settings = Settings(recipe="demo", steps=40, baseline=False, restarts=restarts)
    print(run(settings, hooks=Hooks(load=MeanOfWords)))


if __name__ == "__main__":
    main()
