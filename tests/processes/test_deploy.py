"""deploy/: what the tools of each platform say of it, and that the processes accept what it gives them."""

import base64
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import run_program
from forks import Household

from bus import keys
from scripts.harness.processes import SMALL, FreshLLM, free_port, get
from shared.config import environment

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROGRAMS = {"tandem-train": "trainer", "tandem-propose": "proposer"}


def need(module):
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install '.[dev]'")


def need_program(name):
    if shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") is None:
        pytest.skip(f"{name} is not installed: pip install '.[dev]'")


def run(*command, **options):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kustomize(folder):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    return list(yaml.safe_load_all(run("kubectl", "kustomize", DEPLOY / "kubernetes" / folder)))


@pytest.fixture(scope="module")
def manifests():
    """All that `kubectl apply -k deploy/kubernetes/operators` would send, by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in kustomize("operators")}


def pod(manifests, kind, name):
    return manifests[kind, name]["spec"]["template"]


def container(manifests, kind, name):
    (only,) = pod(manifests, kind, name)["spec"]["containers"]
    return only


PODS = [("Job", "trainer"), ("Deployment", "proposer")]


def test_hadolint_accepts_the_dockerfile():
    need_program("hadolint")
    run("hadolint", DEPLOY / "Dockerfile")


def shell_scripts():
    """Tracked files that begin with a line of a shell."""
    tracked = run("git", "ls-files", cwd=ROOT).splitlines()
    return [
        name
        for name in tracked
        if (ROOT / name).is_file() and (ROOT / name).read_bytes()[:40].split(b"\n")[0] in SHELLS
    ]


SHELLS = (b"#!/usr/bin/env bash", b"#!/bin/bash", b"#!/bin/sh")


def test_shellcheck_accepts_every_shell_script():
    need_program("shellcheck")
    scripts = shell_scripts()
    assert "deploy/slurm/tandem.sbatch" in scripts and "scripts/setup" in scripts
    run("shellcheck", *scripts, cwd=ROOT)


def test_every_manifest_fits_its_schema(manifests):
    need("kubernetes_validate")
    import kubernetes_validate
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor

    custom = {"ScaledObject": ScaledObject, "PodMonitor": PodMonitor}
    for manifest in [*manifests.values(), *kustomize("base")]:
        if model := custom.get(manifest["kind"]):
            read = model.model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_unset=True)
            assert read == manifest  # the models pass over unknown fields
        else:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_an_error_in_a_manifest_is_found(manifests):
    need("kubernetes_validate")
    import kubernetes_validate

    job = manifests["Job", "trainer"]
    wrong = {**job, "spec": {**job["spec"], "backofLimit": 6}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_manifests_name_each_other(manifests):
    labels = {name: pod(manifests, kind, name)["metadata"]["labels"] for kind, name in PODS}
    ports = {name: {port["name"] for port in container(manifests, kind, name)["ports"]} for kind, name in PODS}

    def chosen(selector):
        wanted = selector.get("matchLabels", selector).items()
        return [name for name in labels if wanted <= labels[name].items()]

    service = manifests["Service", "trainer"]["spec"]
    assert chosen(service["selector"]) == ["trainer"]
    assert {port["targetPort"] for port in service["ports"]} <= ports["trainer"]
    for name in labels:
        policy = manifests["NetworkPolicy", name]["spec"]
        assert chosen(policy["podSelector"]) == [name]
        used = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
        assert used == ports[name]
    monitor = manifests["PodMonitor", "tandem"]["spec"]
    assert chosen(monitor["selector"]) == ["trainer", "proposer"]
    assert all(endpoint["port"] in ports["trainer"] & ports["proposer"] for endpoint in monitor["podMetricsEndpoints"])
    assert [labels[name][monitor["jobLabel"]] for name in labels] == ["tandem-trainer", "tandem-proposer"]
    assert ("Deployment", manifests["ScaledObject", "proposer"]["spec"]["scaleTargetRef"]["name"]) in manifests
    assert "replicas" not in manifests["Deployment", "proposer"]["spec"]  # the autoscaler's


@pytest.mark.parametrize(("kind", "name"), PODS)
def test_pods_run_without_rights_and_with_their_volumes(manifests, kind, name):
    spec, only = pod(manifests, kind, name)["spec"], container(manifests, kind, name)
    assert spec["securityContext"]["runAsNonRoot"] and only["securityContext"]["readOnlyRootFilesystem"]
    assert f"USER {spec['securityContext']['runAsUser']}:" in (DEPLOY / "Dockerfile").read_text()
    assert {mount["name"] for mount in only["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    for probe in ("startupProbe", "livenessProbe"):
        assert only[probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}


class Cluster:
    """What a cluster would give to a pod, in folders of this machine."""

    def __init__(self, folder, manifests):
        self.folder = folder
        self.manifests = manifests
        self.port, self.bus = free_port(), free_port()

    def secret(self, name):
        """The files of a Secret, made by the command of docs/deploy.md."""
        (line,) = [line for line in page_lines() if f"create secret generic {name} " in line]
        made = yaml.safe_load(run(*line.split(), "--dry-run=client", "-o", "yaml", cwd=self.folder))
        return {key: base64.b64decode(value) for key, value in made["data"].items()}

    def mount(self, kind, name):
        """Write the volumes of a pod; the folder in the place of its root."""
        root = self.folder / name
        spec, only = pod(self.manifests, kind, name)["spec"], container(self.manifests, kind, name)
        paths = {mount["name"]: root / mount["mountPath"].lstrip("/") for mount in only["volumeMounts"]}
        for volume in spec["volumes"]:
            path = paths[volume["name"]]
            path.mkdir(parents=True, exist_ok=True)
            files, mode = {}, 0o644
            if "secret" in volume:
                files, mode = self.secret(volume["secret"]["secretName"]), volume["secret"]["defaultMode"]
            elif "configMap" in volume:
                data = self.manifests["ConfigMap", volume["configMap"]["name"]]["data"]
                files = {key: self.translate(text, root).encode() for key, text in data.items()}
            for key, content in files.items():
                (path / key).write_bytes(content)
                (path / key).chmod(mode)
        return root

    def translate(self, text, root):
        """Paths and addresses of the pod as they are on this machine; the metrics' port stays $PORT's."""
        text = text.replace("/keys/", f"{root}/keys/").replace("/etc/tandem", f"{root}/etc/tandem")
        text = text.replace("0.0.0.0:5555", f"127.0.0.1:{self.bus}").replace(
            "//trainer:5555", f"//127.0.0.1:{self.bus}"
        )
        return text.replace("port = 8000", f"port = {self.port}").replace("0.0.0.0", "127.0.0.1")

    def command(self, kind, name):
        """The command line and the environment of a pod's process."""
        root, only = self.mount(kind, name), container(self.manifests, kind, name)
        module = PROGRAMS[only["command"][0]]
        arguments = [self.translate(argument, root) for argument in only.get("args", [])]
        variables = {one["name"]: self.translate(one["value"], root) for one in only.get("env", [])}
        variables["TANDEM_FOLDER"] = f"{root}/runs"
        return [module, *arguments], variables


def page_lines():
    """The commands of docs/deploy.md."""
    lines = (ROOT / "docs" / "deploy.md").read_text().splitlines()
    return [line.strip() for line in lines if line.startswith("    ")]


@pytest.fixture
def cluster(tmp_path, manifests):
    """The keys and Secrets that docs/deploy.md makes for Kubernetes."""
    for line in page_lines():
        words = line.split()
        if words[:3] == ["python", "-m", "bus.keys"] and {"cluster", "pool"} & set(words):
            assert run_program(keys.main, "--folder", tmp_path / "keys", *words[3:]).status == 0, line
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    return Cluster(tmp_path, manifests)


def test_pods_meet_with_the_keys_of_the_secrets_and_a_lost_trainer_is_resumed(cluster, tmp_path):
    llm = FreshLLM()
    with Household(tmp_path, **SMALL, TANDEM_STEPS="100", TANDEM_NUM_EVALS="10") as home:
        for name in ("TANDEM_BUS__BIND", "TANDEM_BUS__CONNECT"):
            del home.environment[name]  # the manifests have their own
        command, variables = cluster.command("Job", "trainer")
        trainer = home.program(*command, **variables)
        of_pool, pool_variables = cluster.command("Deployment", "proposer")
        asks = {"TANDEM_PROPOSER__MODEL": "ollama:stand-in", "TANDEM_PROPOSER__BASE_URL": llm.url}
        home.program(*of_pool, **{**pool_variables, **asks, "TANDEM_METRICS__PORT": "0"}).wait_for("connected to")
        trainer.wait_for(r"answered the request(.|\n)*step [1-9]\d/100")
        assert get(cluster.port, "/healthz")[0] == 200
        trainer.send(signal.SIGKILL)  # the node is lost
        trainer.wait()
        assert home.program(*command, **variables).wait() == 0
    history = (tmp_path / "trainer" / "runs" / "demo" / "history.jsonl").read_text()
    assert '"kind": "resumed"' in history
    assert json.loads((tmp_path / "trainer" / "runs" / "demo" / "summary.json").read_text())["steps"] == 100
    llm.stop()


def test_the_proposers_variables_are_settings(manifests, monkeypatch):
    for one in container(manifests, "Deployment", "proposer")["env"]:
        monkeypatch.setenv(one["name"], one["value"])
    assert environment()["bus"]["connect"] == ["tcp://trainer:5555"]


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    """The units that the commands of docs/deploy.md export, from a folder whose .env has a key."""
    folder = tmp_path_factory.mktemp("units")
    shutil.copytree(DEPLOY / "systemd", folder / "deploy" / "systemd")
    (folder / ".env").write_text("OPENAI_API_KEY=sk-secret\nTANDEM_STEPS=7\n")
    (line,) = [line for line in page_lines() if line.startswith("honcho export")]
    run("bash", "-c", f"export USER=root; {line}", cwd=folder)
    return folder / "units"


def test_units_hold_no_variable_of_env_and_restart_only_what_failed(units):
    services = sorted(units.glob("*.service"))
    assert [path.stem for path in services] == [
        f"tandem-{name}" for name in ("proposer-1", "proposer-2", "proposer-3", "trainer-1")
    ]
    for path in services:
        lines = path.read_text().splitlines()
        assert not [line for line in lines if "sk-secret" in line or "TANDEM_STEPS" in line]
        assert f"EnvironmentFile=-{units.parent}/.env" in lines
        assert [line for line in lines if line.startswith("Restart=")] == ["Restart=on-failure"]
    assert "--if-exists resume" in (units / "tandem-trainer-1.service").read_text()


def test_systemd_accepts_the_units(units):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", "verify", *units.glob("*.service"), units / "tandem.target"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
