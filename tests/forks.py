"""Processes of Tandem without the seconds that torch and LangChain take to load: forks of one that has loaded them."""

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path

from scripts.harness import processes

LOADED = ["trainer.execution", "sentence_transformers", "proposer.command", "langchain_ollama"]
"""Modules that every fork has. They start no thread and open no connection when they are imported."""


_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(LOADED)


def load_libraries() -> None:
    """Wait until there is the process that forks."""
    first = _forks.Process(target=int)
    first.start()
    first.join()


class Household(processes.Household):
    """One whose trainers and proposers are forks. What is tested about their start needs the other kind."""

    def program(self, module, *arguments, **environment):
        return self.add(Fork, module, *arguments, **environment)


class Fork(processes.Process):
    """`python -m MODULE` with its own session, signals, variables, output and status."""

    def __init__(self, log, module, *arguments, **own):
        self._log = log
        log.touch()
        self._fork = _forks.Process(target=become, args=(log, module, arguments, processes.environment(own)))
        self._fork.start()

    @property
    def pid(self):
        return self._fork.pid

    @property
    def ended(self):
        return not self._fork.is_alive()

    def wait(self, seconds=processes.PATIENCE):
        self._fork.join(seconds)
        assert not self._fork.is_alive(), f"still running after {seconds:g} s:\n{self.text}"
        return self._fork.exitcode

    def send(self, number: signal.Signals):
        os.kill(self.pid, number)


def become(log: Path, module, arguments, environment):
    """Turn this process into that program."""
    os.setsid()
    os.chdir(processes.ROOT)
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
