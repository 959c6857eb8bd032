"""How OpenMP's threads wait for each other in a trainer, as the library itself says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SHOW = "from trainer.threads import wait_briefly; wait_briefly(); import torch"


def waits(code=SHOW, **environment):
    """The settings that libgomp shows when it is loaded, by name."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**kept, "OMP_DISPLAY_ENV": "VERBOSE", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.partition("=") for line in done.stderr.splitlines() if "=" in line)
    return {name.split()[-1]: value.strip(" '") for name, _, value in lines}


@pytest.fixture(scope="module", autouse=True)
def libgomp():
    if "GOMP_SPINCOUNT" not in waits("import torch"):
        pytest.skip("torch is built with another OpenMP than GCC's")


def test_threads_wait_briefly():
    assert int(waits()["GOMP_SPINCOUNT"]) == 1000 < int(waits("import torch")["GOMP_SPINCOUNT"])


@pytest.mark.parametrize(
    ("name", "value"), [("GOMP_SPINCOUNT", "77"), ("OMP_WAIT_POLICY", "ACTIVE"), ("OMP_NUM_THREADS", "3")]
)
def test_what_the_user_set_stays(name, value):
    set_by_user = {name: value}
    assert waits(**set_by_user) == waits("import torch", **set_by_user)


@pytest.mark.parametrize("module", ["trainer.__main__", "trainer.predict"])
def test_it_is_set_before_torch_is_loaded(module):
    """Each program reaches it without torch: importing the program's module does not load it."""
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    assert waits(code) == {}
