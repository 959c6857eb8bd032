"""Starts, watches and ends real processes of Tandem. Waits poll until a deadline; nothing here measures speed."""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from prometheus_client.parser import text_string_to_metric_families

from scripts.harness.llm_server import LLMServer

ROOT = Path(__file__).resolve().parents[2]

PATIENCE = 90.0
"""Seconds after which something that should have happened long ago is taken to have failed."""

TWO_CLASSES = """{"billing": "money", "returns": "money", "account": "money",
                  "delivery": "goods", "technical": "goods", "product": "goods"}"""

SMALL = {
    "TANDEM_TASK__LABELS": TWO_CLASSES,
    "TANDEM_TASK__SHOTS": "8",
    "TANDEM_TASK__DEV_SHOTS": "8",
    "TANDEM_TASK__TEST_ROWS": "20",
    "TANDEM_PROMPT__NUM_TOKENS": "4",
    "TANDEM_RESTARTS__REQUEST_EVERY": "20",
    "TANDEM_RESTARTS__TRIAL_STEPS": "10",
    "TANDEM_RESTARTS__PATIENCE": "0",
    "TANDEM_RESTARTS__CANDIDATES": "3",
    "TANDEM_BASELINE": "false",
}
"""The demo with fewer classes and rows: its steps cost about 10 ms."""

ACCELERATE = ["launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
"""`--multi_gpu` also starts ranks where there is no GPU."""

Found = TypeVar("Found")


def until(look: Callable[[], Found], what: str, seconds: float = PATIENCE) -> Found:
    """What `look` finds as soon as that is anything."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
    return found


def environment(own: dict[str, str]) -> dict[str, str]:
    """This process's variables without settings of Tandem, one thread, and a program's own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_") and name != "PORT"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**inherited, "PATH": path, "TANDEM_THREADS": "1", **own}


class Process:
    """A program that runs in the checkout, as a user would start it there; its lines go to `log`."""

    def __init__(self, log: Path, *command: str, **own: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(own),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        """All it has written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait_for(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """The first place in its output that matches."""

        def look() -> re.Match[str] | None:
            over = self.ended  # asked before reading: the last lines count
            found = re.search(pattern, self.text)
            assert found or not over, f"ended without {pattern!r}:\n{self.text}"
            return found

        return until(look, f"{pattern!r} in the output", seconds)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its status at its end; minus the signal that killed it."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:g} s:\n{self.text}") from None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def children(self) -> list[int]:
        """The processes that it started, such as a launcher's ranks."""
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                if int(status.read_text().rpartition(")")[2].split()[1]) == self.pid:
                    found.append(int(status.parent.name))
        return sorted(found)

    def clear(self) -> None:
        """Leave nothing of it behind: its children are in sessions of their own."""
        for pid in [*self.children(), self.pid] if not self.ended else []:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self.wait()


class Household:
    """The processes of one test or of several: all on one bus, all gone at the end."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        bus = f"ipc://{folder}/bus"
        self.environment = {
            "TANDEM_FOLDER": str(self.runs),
            "TANDEM_BUS__BIND": bus,
            "TANDEM_BUS__CONNECT": f'["{bus}"]',
            **environment,
        }
        self._all: list[Process] = []

    def __enter__(self) -> "Household":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            process.clear()

    def start(self, *command: str, **environment: str) -> Process:
        return self.add(Process, *command, **environment)

    def add(self, kind: Callable[..., Process], *command: str, **environment: str) -> Process:
        """Start a process of that kind."""
        log = self.folder / f"{len(self._all)}.log"
        self._all.append(kind(log, *command, **{**self.environment, **environment}))
        return self._all[-1]

    def trainer(self, *arguments: str, **environment: str) -> Process:
        return self.program("trainer", *arguments, **environment)

    def ranks(self, count: int, *arguments: str, launcher: str = "torchrun", **environment: str) -> Process:
        """A trainer of several ranks."""
        options = {
            "torchrun": ["--standalone", "--nproc-per-node", str(count)],
            "accelerate": [*ACCELERATE, "--num_processes", str(count), "--main_process_port", str(free_port())],
        }
        program = str(Path(sys.executable).with_name(launcher))
        return self.start(program, *options[launcher], "-m", "trainer", *arguments, **environment)

    def proposer(self, *arguments: str, **environment: str) -> Process:
        return self.program("proposer", *arguments, **environment)

    def program(self, module: str, *arguments: str, **environment: str) -> Process:
        return self.start(sys.executable, "-m", module, *arguments, **environment)

    def asking(self, llm: LLMServer, **environment: str) -> Process:
        """A proposer of `llm`, once it is ready for work."""
        process = self.proposer("--model", "ollama:stand-in", "--proposer.base_url", llm.url, **environment)
        process.wait_for("waits for work")
        return process

    def honcho(self, *arguments: str, **environment: str) -> Process:
        return self.start(sys.executable, "-m", "honcho", "start", *arguments, **environment)


class FreshLLM(LLMServer):
    """Never says the same twice."""

    _numbers = itertools.count(1)

    def __init__(self) -> None:
        self.said: list[str] = []
        """The prompts it answered with."""
        super().__init__()

    @property
    def reply(self) -> str:
        words = [f"kind {next(self._numbers)} note" for _ in range(3)]
        self.said += words
        return "\n".join(f"{item}. {text}" for item, text in enumerate(words, 1))

    @reply.setter
    def reply(self, _: str) -> None:
        pass  # the class it builds on sets one


_open = build_opener(ProxyHandler({})).open


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of a page on loopback; (0, "") where nobody serves."""
    try:
        with _open(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
    except (URLError, ConnectionError):
        return 0, ""


def scrape(port: int) -> dict[str, float]:
    """The samples of /metrics by `name` or `name{label="value"}`; empty where nobody serves."""
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(get(port, "/metrics")[1]):
        for name, labels, value, *_ in family.samples:
            described = ",".join(f'{key}="{labels[key]}"' for key in labels)
            samples[f"{name}{{{described}}}" if described else name] = value
    return samples


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
