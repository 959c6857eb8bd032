"""Every file of examples/ runs as its reader would run it."""

import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import pytest
import torch
from conftest import run_program
from forks import Household

from scripts.notebook import NOTEBOOK, execute
from shared.settings import Settings
from trainer import predict

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
MACHINE_PATH = re.compile(r"/(?:home|root|tmp|usr|opt|work|Users|private)/|[A-Z]:\\")


@pytest.fixture(autouse=True)
def checkout(monkeypatch):
    """A user's environment: nothing of Tandem is set, one core is enough."""
    for name in [name for name in os.environ if name.startswith("TANDEM_")]:
        monkeypatch.delenv(name)
    torch.set_num_threads(1)


def run_example(name, folder):
    """What an example prints; its runs go to `folder`."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.chdir(folder)
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return printed.getvalue()


def block(language):
    """The block of the README in that language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return found


def test_the_lines_of_python_in_the_readme(tmp_path):
    lines = tmp_path / "lines.py"
    lines.write_text(block("python").replace("steps=200", "steps=40"), encoding="utf-8")
    printed = run_example(lines, tmp_path)
    assert "untrained prompt" in printed
    assert printed.splitlines()[-1] in ("billing", "delivery", "returns", "account", "technical problem")


def test_the_settings_in_the_readme_are_settings():
    given = tomllib.loads(block("toml"))
    assert Settings(**given).task.description == given["task"]["description"]


def history(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def test_python_api(tmp_path):
    printed = run_example("python_api.py", tmp_path)
    assert re.search(r"step \d+: lane 1 tries '.+'", printed)
    assert re.search(r"test accuracy: 0\.\d{3}", printed)
    assert "refused: optimizer.lr" in printed
    assert (tmp_path / "runs" / "latest" / "summary.json").is_file()


def test_own_backbone_learns(tmp_path):
    run_example("own_backbone.py", tmp_path)
    summary = json.loads((tmp_path / "runs" / "latest" / "summary.json").read_text(encoding="utf-8"))
    start = next(event for event in history(tmp_path / "runs" / "latest") if event["kind"] == "evaluation")
    assert summary["dev"]["loss"] < start["dev_loss"]


def test_own_data(tmp_path):
    with Household(tmp_path) as household:
        trainer = household.trainer("examples/own_data/city.toml", "--restarts.source", "vocabulary")
        assert trainer.wait() == 0, trainer.text
        found = run_program(predict.main, household.runs / "latest", "a pothole")
        assert found.status == 0, found
        assert found.out.startswith("streets and traffic")


def in_python(_):
    return [sys.executable, "examples/own_proposer.py"]


def in_javascript(folder):
    """The program next to its packages, as npm installs them."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs Node")
    packages = ["zeromq@6", "msgpackr@1"]
    made = subprocess.run(["npm", "install", "--prefix", folder, *packages], capture_output=True, timeout=100)
    if made.returncode:
        pytest.skip("npm cannot install zeromq and msgpackr")
    return ["node", shutil.copy(EXAMPLES / "own_proposer.mjs", folder)]


@pytest.mark.parametrize("language", [in_python, in_javascript])
def test_own_proposer_answers_every_request(tmp_path, language):
    command = language(tmp_path)
    with Household(tmp_path) as household:
        trainer = household.trainer(
            *["demo", "--steps", "40", "--no-baseline", "--restarts.mode", "sync"],
            *["--restarts.request_every", "20", "--restarts.trial_steps", "10", "--restarts.candidates", "3"],
        )
        proposer = household.start(*command, f"ipc://{tmp_path}/bus")
        assert trainer.wait() == 0, trainer.text
        assert proposer.wait() == 0, proposer.text
        events = history(household.runs / "latest")
    asked = [event for event in events if event["kind"] == "digest"]
    answers = [event for event in events if event["kind"] == "proposal"]
    scored = [event for event in events if event["kind"] == "candidates"]
    assert len(answers) == len(asked) > 0
    assert {event["model"] for event in answers} == {"own-proposer"}
    assert scored
    assert "refused" not in proposer.text


def test_the_notebook_runs_and_shows_what_it_gave(tmp_path):
    kept = nbformat.read(NOTEBOOK, as_version=4)
    assert not MACHINE_PATH.search(NOTEBOOK.read_text(encoding="utf-8"))
    now = execute(str(tmp_path))
    assert (tmp_path / "runs" / "latest" / "summary.json").is_file()
    assert all(shown(now))
    assert shown(kept) == shown(now)


def shown(notebook):
    """Kinds of output by code cell; figures may differ in their last digits from machine to machine."""
    return [[output.output_type for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]


def test_every_example_is_tested_and_listed():
    """A new example needs a test above and a line in the README of examples/."""
    names = {path.name for path in EXAMPLES.iterdir() if path.name not in ("README.md", "__pycache__", "runs")}
    readme, tests = (
        (EXAMPLES / "README.md").read_text(encoding="utf-8"),
        Path(__file__).read_text(encoding="utf-8") + NOTEBOOK.name,
    )
    assert [name for name in names if name not in readme or name not in tests] == []
