"""Trainers as forks of one process that has imported their libraries, which is most of what a start costs.

Each is a process of its own that does all that `python -m trainer` does from its first line on.
"""

import logging
import multiprocessing
import os
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["trainer.execution", "trainer.predict", "sentence_transformers", "peft"])


def import_libraries() -> None:
    """Wait until the process that forks is there."""
    os.environ["PYTHONPATH"] = str(ROOT)  # it does not take over sys.path
    first = _forks.Process(target=int)
    first.start()
    first.join()


class ForkedTrainer:
    """A trainer with its arguments and environment; its lines go to `log`."""

    def __init__(self, log: Path, *arguments: str, **environment: str) -> None:
        self.log = log
        self.process: BaseProcess = _forks.Process(target=_train, args=(log, arguments, environment))
        self.process.start()

    @property
    def text(self) -> str:
        """All it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def wait(self, seconds: float = 300.0) -> int:
        """Its status at its end; minus the signal that killed it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds:g} s:\n{self.text}"
        return self.process.exitcode

    def kill_after(self, seconds: float) -> int:
        """Send SIGKILL after a while, unless it has ended; its status."""
        time.sleep(seconds)
        self.process.kill()
        return self.wait()


def _train(log: Path, arguments: list[str], environment: dict[str, str]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name in [name for name in os.environ if name.startswith("TANDEM_")]:
        del os.environ[name]
    os.environ |= {"TANDEM_THREADS": "1", **environment}
    sys.argv = ["python -m trainer", *arguments]
    logging.getLogger().handlers.clear()
    from shared.errors import run_command
    from trainer.command import main

    run_command(main)
