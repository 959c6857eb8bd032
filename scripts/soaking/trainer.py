"""The trainer of scripts/soak: `start SETTINGS`, `resume RUN` or `replay RUN`, resting after each step.

$SOAK_REST names a file with the seconds of each rest; SETTINGS are JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

from shared import logs
from shared.errors import run_command
from shared.settings import Settings
from trainer import api
from trainer.hooks import Hooks
from trainer.runs.signals import Stopped, StopSignals
from trainer.search.events import Event, Stepped


def main(verb: str, what: str) -> int:
    """Carry out a run; the exit status of `python -m trainer`."""
    logs.set_up()
    signals = StopSignals(leave=lambda signals: os._exit(128 + signals.number))
    hooks = Hooks(listeners=[rest], signals=signals)
    try:
        with signals.installed():
            if verb == "start":
                api.run(Settings(**json.loads(what)), hooks=hooks)
            elif verb == "resume":
                api.resume(what, hooks=hooks)
            else:
                api.replay(what, hooks=hooks)
    except Stopped:
        return 128 + signals.number
    return 0


def rest(event: Event) -> None:
    """Sleep after a step, so that a long soak needs little of a core."""
    if isinstance(event, Stepped):
        time.sleep(float(Path(os.environ["SOAK_REST"]).read_text()))


if __name__ == "__main__":
    run_command(lambda: main(*sys.argv[1:]))
