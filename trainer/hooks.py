"""What a caller of the Python API adds to a run."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.settings import Settings
from trainer.runs.signals import StopSignals
from trainer.search.events import Listener

if TYPE_CHECKING:  # these load torch
    from trainer.backbones.backbone import Backbone
    from trainer.tasks.examples import Task


@dataclass
class Hooks:
    """What a caller adds to a run."""

    listeners: Iterable[Listener] = ()
    """Called with every event of the training, as `trainer.search.events` defines them."""
    load: "Callable[[Settings, Task], Backbone] | None" = None
    """Loads the frozen model, where it is not the one that the settings name, or is loaded already."""
    signals: StopSignals = field(default_factory=StopSignals)
