"""Imports go one way, and what is light stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "shared": {"shared"},
    "bus": {"shared", "bus"},
    "trainer": {"shared", "bus", "trainer"},
    "proposer": {"shared", "bus", "proposer"},
}

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


def test_importing_proposer_loads_no_torch():
    assert "torch" not in loaded("import proposer, sys; print(*sys.modules)")


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room):
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: write imports in full"
            for name in imported(node):
                assert name not in MAY_IMPORT or name in MAY_IMPORT[room], f"{path} imports {name}"


def imported(node):
    if isinstance(node, ast.ImportFrom):
        return [(node.module or "").split(".")[0]]
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return []
