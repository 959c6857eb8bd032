"""The README's section on two machines, word for word: a trainer's and a worker's folder, and the commands in order."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.harness.llm_server import LLMServer
from scripts.harness.processes import SMALL, Process, free_port

ROOT = Path(__file__).resolve().parents[2]


def readme_commands():
    """Pairs of host and command, without what is said about them."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^ {4}(trainer-host|worker)\$  (.+)$", text, re.M)
    return [(host, re.split(r" {3,}(?=prints)", command)[0].strip()) for host, command in lines]


class Hosts:
    """Runs the README's commands, each in its host's folder, with the keys that were printed in their places."""

    def __init__(self, folder, **environment):
        self.folder, self.port = folder, free_port()
        self.environment = {"PYTHONPATH": str(ROOT), **environment}
        self.printed = {}
        """The public key that was printed for each name."""
        self.started = []
        for host in ("trainer-host", "worker"):
            (folder / host).mkdir()

    def command(self, host, line):
        for name, key in self.printed.items():
            line = line.replace(f"KEY OF {name}", key)
        line = line.replace("trainer-host:5555", f"127.0.0.1:{self.port}").replace(
            "0.0.0.0:5555", f"0.0.0.0:{self.port}"
        )
        return ["env", "-C", str(self.folder / host), sys.executable, *shlex.split(line)[1:]]

    def do(self, host, line):
        """Carry out a command of bus.keys."""
        done = subprocess.run(
            self.command(host, line), env={**os.environ, **self.environment}, capture_output=True, text=True, check=True
        )
        if match := re.search(r"public key: (\S+)", done.stdout):
            self.printed[line.split()[-1]] = match[1]

    def start(self, host, line):
        """Start a trainer or a proposer."""
        log = self.folder / f"{len(self.started)}.log"
        self.started.append(Process(log, *self.command(host, line), **self.environment))
        return self.started[-1]


@pytest.fixture
def hosts(tmp_path):
    llm = LLMServer()
    llm_settings = {"TANDEM_PROPOSER__MODEL": "ollama:stand-in", "TANDEM_PROPOSER__BASE_URL": llm.url}
    made = Hosts(tmp_path, **SMALL, **llm_settings, TANDEM_STEPS="100000", TANDEM_BUS__READY_SECONDS="0.5")
    yield made
    for process in made.started:
        process.clear()
    llm.stop()


def test_two_machines_work_as_written_and_revoking_cuts_the_worker_off(hosts):
    *keys, (on_trainer, train), (on_worker, propose) = readme_commands()
    assert len(keys) == 3
    for host, line in keys:
        hosts.do(host, line)
    trainer = hosts.start(on_trainer, train)
    proposer = hosts.start(on_worker, propose)
    trainer.wait_for(r"stand-in answered the request of step \d+: 3 prompts")
    proposer.wait_for("connected to")
    hosts.do("trainer-host", "python -m bus.keys revoke gpu1")
    proposer.wait_for("does not admit this proposer")
    said = len(re.findall("answered the request", trainer.text))
    time.sleep(1.5)  # three readies
    assert len(re.findall("answered the request", trainer.text)) == said
    hosts.do("trainer-host", f"python -m bus.keys allow gpu1 '{hosts.printed['gpu1']}'")
    proposer.wait_for("no trainer at(.|\n)*connected to")
    trainer.send(signal.SIGTERM)
    assert trainer.wait() == 128 + signal.SIGTERM
    secrets = {path.read_text().strip() for path in hosts.folder.glob("*/keys/*.secret")}
    config = json.loads((hosts.folder / "trainer-host/runs/latest/config.json").read_text())
    assert config["bus"]["secret_key"] == "keys/lab.secret"
    written = [*hosts.folder.glob("trainer-host/runs/**/*.json*"), *hosts.folder.glob("*.log")]
    assert not any(secret in path.read_text(errors="replace") for secret in secrets for path in written)
