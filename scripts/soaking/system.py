"""A trainer and its proposers, with CURVE keys, one LLM and a disk of their own, as scripts/soak runs them."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from scripts.harness.processes import TWO_CLASSES, FreshLLM, Household, Process, free_port, get, scrape

PROPOSERS = 4
REST_SECONDS = 0.4
"""The trainer's rest after each step."""

MAX_CHALLENGERS = 1
LEASE_SECONDS = 10.0
COMPILED = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16", "LRU_CACHE_CAPACITY": "16"}
"""Products that stay compiled in the trainer (`trainer.backbones.frozen_linear`). With more of them its memory fills up
for ten minutes, which hides a leak."""

DISK_BYTES = 64 * 2**20
NAME = "soak"

SETTINGS = {
    "recipe": "demo",
    "name": NAME,
    "num_evals": 20,
    "baseline": False,
    "threads": 1,
    "task": {"labels": json.loads(TWO_CLASSES), "shots": 8, "dev_shots": 8, "test_rows": 20},
    "prompt": {"num_tokens": 4},
    "restarts": {
        "request_every": 10, "trial_steps": 10, "patience": 0, "candidates": 3, "max_challengers": MAX_CHALLENGERS,
    },
}  # fmt: skip

GARBAGE = [
    "",
    "\x00\x1b[2J\ufffd" * 40,
    "I am sorry, I cannot help with that.",
    "1. " + "w" * 200_000,
    "\n".join(f"{number}." for number in range(500)),
    '{"prompts": [[[[[[1, null, {"a": NaN}]]]]]]}',
    "```json\n[\"unfinished\n",
    "1. \u202eevil\u0007\n2. " + "{" * 5_000,
]  # fmt: skip


class MoodyLLM(FreshLLM):
    """An LLM that answers well, or with garbage."""

    garbage: random.Random | None = None
    """Draws garbage; None for good answers."""

    @property
    def reply(self) -> str:
        """What it says next."""
        return self.garbage.choice(GARBAGE) if self.garbage else FreshLLM.reply.fget(self)  # type: ignore[attr-defined]

    @reply.setter
    def reply(self, _: str) -> None:
        pass  # the class it builds on sets one


class System:
    """The processes, and what was noticed about them."""

    def __init__(self, folder: Path, home: Household, minutes: float) -> None:
        self.folder, self.home = folder, home
        self.findings: list[str] = []
        self.llm = MoodyLLM()
        self.suspended: set[str] = set()
        """Processes that are stopped by SIGSTOP."""
        self.memory: dict[str, list[list[tuple[float, float]]]] = {}
        """By process: for each of its lives, pairs of seconds and MiB."""
        self.silent: dict[str, float] = {}
        """By process: the most seconds since a beat that its /healthz said, a suspension left out."""
        self.totals: Counter[str] = Counter()
        """The trainer's counters over the lives that ended."""
        self._samples: dict[str, float] = {}
        self.cpu = 0.0
        """CPU seconds of the processes that ended."""
        self._rest = folder / "rest"
        self.rest(REST_SECONDS)
        self.bind = f"tcp://127.0.0.1:{free_port()}"
        self.ports = {name: free_port() for name in ("trainer", *self.names)}
        self._make_keys()
        self.disk = folder / "disk"
        self.has_disk = self._mount()
        self.processes: dict[str, Process] = {}
        self.budget = int(60 * minutes / REST_SECONDS) * (1 + MAX_CHALLENGERS)
        for name in self.names:
            self.start_proposer(name)
        bus = {"bind": self.bind, "secret_key": self.key("trainer"), "allowed_keys": f"{folder}/keys/allowed"}
        bus |= {"lease_seconds": LEASE_SECONDS, "ready_seconds": 1.0}
        settings = {**SETTINGS, "steps": self.budget, "folder": str(self.disk / "runs"), "bus": bus}
        self._start_trainer("start", json.dumps(settings))

    @property
    def names(self) -> list[str]:
        """Of the proposers."""
        return [f"proposer {number}" for number in range(1, PROPOSERS + 1)]

    @property
    def run(self) -> Path:
        """The run's directory."""
        return self.disk / "runs" / NAME

    def key(self, name: str) -> str:
        """The file of a secret key."""
        return f"{self.folder}/keys/{name.replace(' ', '')}.secret"

    def public(self, name: str) -> str:
        """A public key."""
        return Path(self.key(name)).with_suffix(".public").read_text().split()[0]

    def keys(self, *arguments: str) -> None:
        """Call `python -m bus.keys`."""
        command = [sys.executable, "-m", "bus.keys", "--folder", f"{self.folder}/keys", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).resolve().parents[2])

    def rest(self, seconds: float) -> None:
        """Let the trainer rest after each step."""
        part = self._rest.with_suffix(".part")
        part.write_text(str(seconds))
        part.replace(self._rest)

    def start_proposer(self, name: str) -> None:
        """Start a proposer."""
        bus = {"CONNECT": f'["{self.bind}"]', "SECRET_KEY": self.key(name), "READY_SECONDS": "1"}
        bus |= {"TRAINER_KEYS": json.dumps([self.public("trainer")])}
        environment = {f"TANDEM_BUS__{key}": value for key, value in bus.items()}
        environment |= {"TANDEM_PROPOSER__TIMEOUT_SECONDS": "3", "PORT": str(self.ports[name])}
        self.processes[name] = self.home.proposer(
            "--model", "ollama:stand-in", "--proposer.base_url", self.llm.url, **environment
        )
        self.memory.setdefault(name, []).append([])

    def resume(self) -> None:
        """Continue the run in a new process."""
        self._start_trainer("resume", str(self.run))

    def _start_trainer(self, verb: str, what: str) -> None:
        self.processes["trainer"] = self.home.start(
            sys.executable, "-m", "scripts.soaking.trainer", verb, what,
            SOAK_REST=str(self._rest), PORT=str(self.ports["trainer"]), **COMPILED,
        )  # fmt: skip
        self.memory.setdefault("trainer", []).append([])

    def replay(self) -> Process:
        """A replay of the run."""
        self.rest(0.0)
        return self.home.start(
            sys.executable, "-m", "scripts.soaking.trainer", "replay", str(self.run),
            SOAK_REST=str(self._rest),
        )  # fmt: skip

    def end(self, name: str, number: signal.Signals, *expected: int) -> None:
        """Signal a process, and wait for its end, which has one of the `expected` statuses."""
        process = self.processes.pop(name)
        self._sum_up(name, process)
        process.send(number)
        status = process.wait()
        if status not in expected:
            self.find(f"{name} ended with status {status} after {number.name}, expected {expected}")
        self._read_log(name, process)

    def look(self) -> None:
        """Sample every process, and note those that ended by themselves, are unwell, or wrote a traceback."""
        for name, process in list(self.processes.items()):
            if process.ended:
                what = f"{name} ended by itself with status {process.wait()}: {process.text[-2000:]}"
                assert name != "trainer", what
                self.find(what)
                self.start_proposer(name)
            if (mib := resident(process.process.pid)) is not None:
                self.memory[name][-1].append((time.monotonic(), mib))
            self._check_health(name)
        if "trainer" in self.processes and "trainer" not in self.suspended:
            self._samples = scrape(self.ports["trainer"]) or self._samples

    def _check_health(self, name: str) -> None:
        if name in self.suspended:
            return
        status, body = get(self.ports[name], "/healthz")
        if not status:
            return  # it serves nothing yet, or nothing any more
        report = json.loads(body)
        if report["status"] != "ending":
            self.silent[name] = max(self.silent.get(name, 0.0), report["seconds_since_beat"])
            if status != 200:
                self.find(f"/healthz of {name}: {status} {body.strip()}")

    def counters(self) -> Counter[str]:
        """The trainer's counters over all its lives."""
        return self.totals + Counter(_counters(self._samples))

    def cpu_seconds(self) -> float:
        """CPU time of all processes so far."""
        return self.cpu + sum(cpu_of(process.process.pid) for process in self.processes.values())

    def finish(self) -> None:
        """Let the run use up its budget, then stop the proposers."""
        self.rest(0.0)
        trainer = self.processes["trainer"]
        self._sum_up("trainer", trainer)
        if status := trainer.wait(600.0):
            self.find(f"trainer ended with status {status}: {trainer.text[-2000:]}")
        del self.processes["trainer"]
        self._read_log("trainer", trainer)
        for name in list(self.processes):
            self.end(name, signal.SIGTERM, 0)
        self.llm.stop()

    def find(self, finding: str) -> None:
        """Note what should not be."""
        self.findings.append(finding)
        print(f"FINDING: {finding}", flush=True)

    def close(self) -> None:
        """Take the disk away."""
        for name in self.suspended & self.processes.keys():
            self.processes[name].send(signal.SIGCONT)
        if self.has_disk:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False)

    def _sum_up(self, name: str, process: Process) -> None:
        self.cpu += cpu_of(process.process.pid)
        if name == "trainer":
            self.totals += Counter(_counters(self._samples))
            self._samples = {}

    def _read_log(self, name: str, process: Process) -> None:
        if "Traceback" in (text := process.text):
            self.find(f"{name} wrote a traceback: {text[text.index('Traceback') :][:2000]}")

    def _make_keys(self) -> None:
        self.keys("new", "trainer", "trainer")
        for name in (*self.names, "mad", "unlisted"):
            short = name.replace(" ", "")
            self.keys("new", "proposer", short)
            if name != "unlisted":
                self.keys("allow", short)

    def _mount(self) -> bool:
        """Give the run a small disk of its own, where root may mount one."""
        self.disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self.disk)]
        with suppress(OSError):
            return os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
        return False


def resident(pid: int) -> float | None:
    """Resident memory of a process in MiB; None if it is gone."""
    try:
        return next(
            int(line.split()[1]) / 1024 for line in Path(f"/proc/{pid}/status").open() if line.startswith("VmRSS")
        )
    except (OSError, StopIteration):
        return None


def cpu_of(pid: int) -> float:
    """CPU seconds of a process; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _counters(samples: dict[str, float]) -> dict[str, int]:
    """Lane-steps, leases and rejected messages, under short names."""
    found: dict[str, int] = {}
    for name, value in samples.items():
        for family, short in [
            ("tandem_trainer_leases_total", "leases"),
            ("tandem_trainer_rejected_frames_total", "rejected"),
        ]:
            if name.startswith(family) and value:
                found[f"{short} {name.split('=')[-1].strip('}').strip(chr(34))}"] = int(value)
    return found
