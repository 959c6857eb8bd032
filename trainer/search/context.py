"""The frozen side of a run: the task and the model."""

from collections.abc import Callable
from dataclasses import dataclass

from trainer import ranks
from trainer.backbones.backbone import Backbone
from trainer.search.evaluation import EncodedSplit
from trainer.tasks.examples import Split, Task


@dataclass(frozen=True)
class TuningContext:
    """What runs share: the task and the frozen model, which caches what it has encoded."""

    task: Task
    backbone: Backbone
    beat: Callable[[], None]
    """Called while examples are encoded, so that a long wait does not look like a hang."""

    def encode(self, split: Split, name: str) -> EncodedSplit:
        """A split as the backbone reads it; `name` labels the progress bar."""
        with ranks.agreed():
            inputs = self.backbone.prepare(split.examples, name, self.beat)
        return EncodedSplit(inputs, split.targets.to(self.backbone.device), self.backbone.lengths(inputs))
