"""A short soak: every kind of trouble that fits into half a minute, and the checks at the end."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(300)
def test_half_a_minute_of_trouble_leaves_a_whole_run():
    soak = subprocess.run(
        [sys.executable, "scripts/soak.py", "--minutes", "0.5"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert soak.returncode == 0, soak.stdout + soak.stderr
    assert "0 findings" in soak.stdout
    assert soak.stdout.count("holds  ") >= 5
