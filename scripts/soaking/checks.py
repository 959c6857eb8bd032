"""What scripts/soak checks of a finished run: its budget, its record and history, its replay, the processes' memory."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bus.messages import Outcomes, Proposal
from bus.record import Ended, Leased, read
from scripts.soaking.system import System
from shared.settings import MetricsSettings
from trainer.runs.directory import BEST_TENSORS, HISTORY, RECORD, SUMMARY

WARM_UP_SECONDS = 60.0
"""What a process allocates at first is not a leak."""

OBSERVED_SECONDS = 300.0
"""A shorter life is not judged: one block of 5 MiB, by which a proposer grows once, outweighs a slope."""

MAX_SLOPE = 0.5
"""MiB a minute. The trainer's memory of prompts fills up at about half of it (`trainer.search.trajectory`)."""

Check = tuple[str, bool, str]
"""What, whether it holds, and its figure."""


def check_run(run: Path, budget: int) -> list[Check]:
    """Whether all lane-steps are done, every lease ended once, and history and record say the same."""
    events = [json.loads(line) for line in (run / HISTORY).read_text().splitlines()]
    summary = json.loads((run / SUMMARY).read_text())
    steps = [event for event in events if event["kind"] == "step"]
    done = sum(len(event["lanes"]) for event in steps)
    positions = [event["step"] for event in steps]
    in_order = positions == sorted(set(positions))
    leased, ends = _record(run)
    history = _history(events)
    closing = Counter({lease: 1 for lease, how in ends if how != "settled"}) - Counter(
        {lease: 1 for lease, how in history["ends"] if how != "settled"}
    )
    agree = history["leased"] == leased and history["ends"] == [end for end in ends if end[0] not in closing]
    return [
        ("all lane-steps done", done == budget == positions[-1] == summary["steps"] and in_order, f"{done}/{budget}"),
        (
            "every lease ended once",
            len(set(leased)) == len(leased) and Counter(leased) == Counter(lease for lease, _ in ends),
            f"{len(leased)} leases: {_by_how(ends)}",
        ),
        ("history and record agree", agree, f"{len(closing)} ended with the bus, in the record alone"),
        (
            "every candidate has one outcome",
            history["candidates"] == history["outcomes"],
            f"{sum(history['candidates'].values())} scored",
        ),
    ]


def _record(run: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Leases in the order in which they were granted, and their ends."""
    leased: list[str] = []
    ends: list[tuple[str, str]] = []
    for entry in read(run / RECORD):
        match entry.event:
            case Leased() as event:
                leased += event.leases
            case Proposal() as event:
                ends.append((event.lease, "settled"))
            case Ended() as event:
                ends.append((event.lease, event.how))
            case Outcomes():
                pass
    return leased, ends


def _history(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The same of the history, and the candidates that were scored with their outcomes."""
    ends = [
        (event["lease"], event.get("how", "settled"))
        for event in events
        if event["kind"] in ("proposal", "lease_ended")
    ]
    candidates = Counter((one["lease"], one["words"]) for event in events for one in event.get("scored", []))
    outcomes = Counter((event["lease"], event["words"]) for event in events if event["kind"] == "outcome")
    leased = [lease for event in events if event["kind"] == "digest" for lease in event["leases"]]
    return {
        "leased": leased,
        "ends": ends,
        "candidates": candidates,
        "outcomes": Counter({key: count for key, count in outcomes.items() if key in candidates}),
    }


def _by_how(ends: list[tuple[str, str]]) -> str:
    return ", ".join(f"{count} {how}" for how, count in Counter(how for _, how in ends).most_common())


def check_replay(system: System) -> Check:
    """Whether a replay ends with the same weights."""
    replay = system.replay()
    if status := replay.wait(600.0):
        return "replayed bit for bit", False, f"status {status}: {replay.text[-1000:]}"
    replayed = next(path for path in system.run.parent.iterdir() if path.name.startswith("demo-") and path.is_dir())
    one, other = (load_file(path / BEST_TENSORS) for path in (system.run, replayed))
    same = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    return "replayed bit for bit", same, f"{len(one)} tensors"


def check_health(silent: dict[str, float]) -> Check:
    """Whether every process gave a sign of life in time, while it started too."""
    limit = MetricsSettings().stale_seconds
    figure = ", ".join(f"{name} {seconds:.1f}" for name, seconds in sorted(silent.items()))
    return "/healthz never stale", all(seconds <= limit for seconds in silent.values()), f"most seconds: {figure}"


def check_memory(memory: dict[str, list[list[tuple[float, float]]]]) -> list[Check]:
    """Slope of the memory of each process within its lives, without their warm-up; 0 where none is long enough."""
    checks = []
    for name, lives in memory.items():
        parts = [[(at, mib) for at, mib in life if at - life[0][0] >= WARM_UP_SECONDS] for life in lives if life]
        parts = [part for part in parts if part and part[-1][0] - part[0][0] >= OBSERVED_SECONDS]
        seconds = sum(part[-1][0] - part[0][0] for part in parts)
        slope = 60 * _slope(parts)
        most = max((mib for life in lives for _, mib in life), default=0.0)
        figure = f"{slope:+.2f} MiB a minute over {seconds / 60:.0f} minutes" if parts else "its lives are too short"
        checks.append(
            (f"memory of {name} flat", slope <= MAX_SLOPE, f"{figure}, most {most:.0f} MiB, {len(lives)} lives")
        )
    return checks


def _slope(parts: list[list[tuple[float, float]]]) -> float:
    """Least-squares slope with an intercept for each part."""
    above = below = 0.0
    for part in parts:
        mean_at = sum(at for at, _ in part) / len(part)
        mean = sum(mib for _, mib in part) / len(part)
        above += sum((at - mean_at) * (mib - mean) for at, mib in part)
        below += sum((at - mean_at) ** 2 for at, _ in part)
    return above / below if below else 0.0
