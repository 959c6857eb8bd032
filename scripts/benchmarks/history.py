"""The history of a run that was measured."""

import json
from pathlib import Path


def step_times(path: Path) -> list[float]:
    """When each step of the run ended, Unix seconds; a last line that is half written is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    events = (json.loads(line) for line in lines if line.endswith("\n"))
    return [event["time"] for event in events if event["kind"] == "step"]
