"""deploy/slurm/tandem.sbatch in a real cluster of one node: a signal, a requeue, the end."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess

import pytest

from scripts.harness.processes import ROOT, SMALL, FreshLLM, Household, free_port, until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "srun")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]

if MISSING or os.geteuid():
    pytest.skip(
        f"needs root and {', '.join(MISSING) or 'no more'}: apt-get install slurmctld slurmd slurm-client munge",
        allow_module_level=True,
    )

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=16000
PartitionName=all Nodes=ALL Default=YES State=UP
"""


class Slurm:
    """The commands of a cluster."""

    def __init__(self, folder):
        self.environment = {"SLURM_CONF": f"{folder}/slurm.conf"}

    def __call__(self, *command, **environment):
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **self.environment, **environment}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def state(self, job):
        """What Slurm says of a job, by key."""
        return dict(pair.split("=", 1) for pair in self("scontrol", "show", "job", job, "-o").split() if "=" in pair)


@pytest.fixture
def slurm(tmp_path):
    """A cluster of this machine, whose daemons are children of the test."""
    host = socket.gethostname()
    (tmp_path / "slurm.conf").write_text(
        CONFIG.format(folder=tmp_path, host=host, control=free_port(), node=free_port())
    )
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    (tmp_path / "munge.key").write_bytes(secrets.token_bytes(1024))
    (tmp_path / "munge.key").chmod(0o600)
    cluster = Slurm(tmp_path)
    places = [f"--{kind}={tmp_path}/munge.{ending}" for kind, ending in MUNGE.items()]
    daemons = [["munged", "--foreground", "--force", *places], ["slurmctld", "-D", "-i"], ["slurmd", "-D"]]
    with (tmp_path / "daemons.log").open("w") as log:
        environment = {**os.environ, **cluster.environment}
        children = []
        try:
            for daemon in daemons:
                children.append(subprocess.Popen(daemon, env=environment, stdout=log, stderr=log))
                if daemon[0] == "munged":
                    until((tmp_path / "munge.socket").exists, "munged", 10)
            until(lambda: "idle" in sinfo(cluster), (tmp_path / "daemons.log").read_text(), 20)
            yield cluster
        finally:
            for child in reversed(children):
                child.send_signal(signal.SIGTERM)
                child.wait(20)


MUNGE = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def sinfo(cluster):
    """The node's state; empty before the controller answers."""
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"],
        env={**os.environ, **cluster.environment},
        capture_output=True,
        text=True,
    )
    return done.stdout


@pytest.mark.timeout(240)  # two starts of a trainer
def test_a_job_is_saved_on_the_signal_before_its_limit_requeued_and_resumed_to_its_end(slurm, tmp_path):
    llm = FreshLLM()
    with Household(tmp_path, **SMALL, TANDEM_NUM_EVALS="10", TANDEM_STEPS="150", TANDEM_THREADS="1") as home:
        asks = {"TANDEM_PROPOSER__MODEL": "ollama:stand-in", "TANDEM_PROPOSER__BASE_URL": llm.url}
        log = tmp_path / "job.log"
        script = ROOT / "deploy" / "slurm" / "tandem.sbatch"
        options = ("--parsable", "--ntasks=2", f"--output={log}", f"--chdir={checkout(tmp_path)}")
        job = slurm("sbatch", *options, str(script), "demo", **home.environment, **asks)
        until(lambda: log.exists() and "answered the request" in log.read_text(), "a proposal")
        slurm("scancel", "--signal=USR1", "--batch", job)
        until(lambda: "stopped; continue with" in log.read_text(), "the end of the trainer")
        until(lambda: slurm.state(job)["JobState"] == "PENDING", "the requeue")
        # Slurm itself would wait for two minutes; at once, the node still refuses the job that was killed this second
        slurm("scontrol", "update", f"jobid={job}", "starttime=now+5")
        run = home.runs / f"slurm-{job}"
        until((run / "summary.json").is_file, "the end of the run")
        until(lambda: slurm.state(job)["JobState"] == "COMPLETED", "the end of the job")
        assert slurm.state(job)["Restarts"] == "1"
    kinds = [json.loads(line)["kind"] for line in (run / "history.jsonl").read_text().splitlines()]
    assert "resumed" in kinds
    assert json.loads((run / "summary.json").read_text())["steps"] == 150
    llm.stop()


def checkout(folder):
    """A folder that stands for the checkout, so that the keys of the job do not go into the real one."""
    path = folder / "checkout"
    path.mkdir()
    for name in (".venv", "bus", "shared", "trainer", "proposer"):
        (path / name).symlink_to(ROOT / name)
    return path
