"""Imports go down, and what is light stays light."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts.imports import levels, rooms

ROOT = Path(__file__).resolve().parents[2]

LOAD_ALL = """
import importlib, pkgutil, sys
room = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*sys.modules)
"""


def loaded(code, *arguments):
    """The top-level names of what a fresh interpreter has loaded after `code`."""
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in result.stdout.split()}


@pytest.mark.parametrize("room", ["shared", "bus"])
def test_every_module_of_a_light_room_loads_neither_torch_nor_langchain(room):
    heavy = {"torch", "transformers", "datasets", "langchain", "langchain_core", "langgraph"}
    assert not loaded(LOAD_ALL, room) & heavy


@pytest.mark.parametrize("code", ["import proposer", "import trainer", "from trainer import Settings, UserError"])
def test_entrances_load_no_torch(code):
    assert "torch" not in loaded(f"{code}; import sys; print(*sys.modules)")


def test_the_contracts_of_pyproject_hold():
    """Layers of the four top rooms and of the trainer's, no circles."""
    command = [Path(sys.executable).parent / "lint-imports", "--config", ROOT / "pyproject.toml", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # in a process: it disables loggers
    assert done.returncode == 0, done.stdout


def test_the_architecture_page_lists_the_rooms_in_the_order_of_the_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (one["layers"] for one in contracts if one.get("containers") == ["trainer"])
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("| room of the trainer |")[1].split("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines()[2:]]
    assert [re.findall(r"`(\w+)`", row) for row in rows] == [re.split(r" [|:] ", layer) for layer in layers]


def test_nothing_below_the_entrance_imports_it():
    graph = rooms()
    assert graph["trainer"]
    assert not [room for room, imported in graph.items() if "trainer" in imported]


def test_the_graph_prints_with_every_arrow_down():
    """The printed levels are those of the same graph that the contracts check."""
    graph = rooms()
    height = levels(graph)
    assert all(height[room] > height[below] for room, imported in graph.items() for below in imported)
    printed = subprocess.run(
        [sys.executable, "-m", "scripts.imports"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[1] for line in printed.splitlines()[: len(graph)]} == set(graph)


def test_the_loop_fits_on_a_few_screens():
    assert len((ROOT / "trainer" / "loop.py").read_text(encoding="utf-8").splitlines()) < 200


def test_no_test_module_imports_another():
    """What tests share has a module of its own in tests/, or in scripts/harness where scripts need it too."""
    found = [
        (path.name, line)
        for path in (ROOT / "tests").rglob("test_*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(?:from|import) (?:\w+\.)*test_", line)
    ]
    assert found == []
