"""Tune the soft prompt of a frozen model with gradient descent and LLM proposers at once.

    from trainer import Settings, run

    result = run(Settings(recipe="demo", steps=100))
    print(result)

Importing this package is cheap; torch loads when a name that needs it is first used.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.errors import UserError
    from shared.settings import Settings
    from trainer.api import replay, resume, run
    from trainer.hooks import Hooks
    from trainer.result.classifier import Classifier
    from trainer.result.run_result import RunResult
    from trainer.runs.signals import Stopped

    load = Classifier.load

__all__ = ["Hooks", "RunResult", "Settings", "Stopped", "UserError", "load", "replay", "resume", "run"]

_HOMES = {
    "Hooks": "trainer.hooks:Hooks",
    "RunResult": "trainer.result.run_result:RunResult",
    "Settings": "shared.settings:Settings",
    "Stopped": "trainer.runs.signals:Stopped",
    "UserError": "shared.errors:UserError",
    "load": "trainer.result.classifier:Classifier.load",
    "replay": "trainer.api:replay",
    "resume": "trainer.api:resume",
    "run": "trainer.api:run",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve_name(_HOMES[name])
