"""Save and restore the state of a run, as one safetensors file that is replaced atomically."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shared.errors import UserError, first_line
from shared.settings import Settings
from trainer.runs.directory import CHECKPOINT
from trainer.search.evaluation import EvalResult
from trainer.search.lanes import Lane, Origin, open_lane
from trainer.search.pool import Pool, Snapshot
from trainer.search.prompt_init import PromptInit
from trainer.search.restarts import Restarts
from trainer.search.state import RunState
from trainer.search.trajectory import Trajectory

SCALARS = (
    "lane_steps", "iterations", "exchanged", "opened", "lanes_per_pass", "seconds", "scoring_lane_steps",
    "stalled_seconds",
)  # fmt: skip
"""Fields of `RunState` that are JSON."""


def save_checkpoint(directory: Path, state: RunState, prompt_init: PromptInit, offsets: Mapping[str, int]) -> None:
    """Write the checkpoint of the run in `directory`; a reader sees the old one or the new one, also after a crash.

    Args:
        directory: the run's directory.
        state: of the run.
        prompt_init: whose generator draws the control's words.
        offsets: sizes in bytes of the run's append-only files, which belong to this state.

    Raises:
        OSError: the disk does not take it; the checkpoint before stays.
    """
    path = directory / CHECKPOINT
    path.parent.mkdir(exist_ok=True)
    tensors: dict[str, Tensor] = {"prompt_init": prompt_init.generator.get_state()}
    for lane in state.lanes:
        tensors |= _parameters(f"lane.{lane.number}.", lane.prompt.detach(), lane.head)
        for index, moments in lane.optimizer.state_dict()["state"].items():
            tensors |= {f"lane.{lane.number}.optimizer.{index}.{name}": value for name, value in moments.items()}
    for index, snapshot in enumerate(state.pool.snapshots):
        tensors |= _parameters(f"pool.{index}.", snapshot.prompt, snapshot.head)
    part = path.with_suffix(".part")
    plain = json.dumps(_plain(state) | {"offsets": dict(offsets)})
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, {"state": plain})
    except SafetensorError as error:
        raise OSError(str(error)) from None
    _sync(part)
    part.replace(path)
    _sync(path.parent)


def load_checkpoint(
    directory: Path, settings: Settings, prompt_init: PromptInit, device: torch.device
) -> tuple[RunState, dict[str, int]]:
    """The state saved in `directory`, and the sizes of the append-only files that belong to it.

    Raises:
        UserError: the checkpoint is absent or damaged.
    """
    path = directory / CHECKPOINT
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        prompt_init.generator.set_state(tensors["prompt_init"])
        offsets = {name: _size(value) for name, value in plain["offsets"].items()}
        return _restore(plain, _to_device(tensors, device), settings), offsets
    except Exception as error:  # whatever the file holds in the place of what belongs there
        raise UserError(
            f"{path} is damaged, or saved by another version of Tandem ({type(error).__name__}: {first_line(error)}); "
            "put a copy of it back, or start a new run"
        ) from None


def _size(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"a file has no size of {value!r} bytes")
    return value


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_device(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """All on `device`, except step counts: AdamW reads them on the CPU in each step."""
    return {name: tensor if name.endswith(".step") else tensor.to(device) for name, tensor in tensors.items()}


def _parameters(place: str, prompt: Tensor, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{place}prompt": prompt} | {f"{place}head.{name}": value.detach() for name, value in head.items()}


def _under(place: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(place): tensor for key, tensor in tensors.items() if key.startswith(place)}


def _plain(state: RunState) -> dict[str, Any]:
    return {
        "lanes": [{"number": lane.number, "age": lane.age, "lineage": _origins(lane.lineage)} for lane in state.lanes],
        "dev": asdict(state.dev),
        "trajectory": state.trajectory.state_dict(),
        "restarts": state.restarts.state_dict(),
        "pool": [
            {"lane": kept.lane, "step": kept.step, "lineage": _origins(kept.lineage), "dev": asdict(kept.dev)}
            for kept in state.pool.snapshots
        ],
    } | {name: getattr(state, name) for name in SCALARS}


def _restore(plain: dict[str, Any], tensors: dict[str, Tensor], settings: Settings) -> RunState:
    return RunState(
        lanes=[_lane(entry, tensors, settings) for entry in plain["lanes"]],
        dev=EvalResult(**plain["dev"]),
        trajectory=Trajectory.from_state_dict(plain["trajectory"]),
        restarts=Restarts.from_state_dict(settings.restarts, settings.steps, plain["restarts"]),
        pool=Pool(
            [
                Snapshot(
                    entry["lane"],
                    entry["step"],
                    tensors[f"pool.{index}.prompt"],
                    _under(f"pool.{index}.head.", tensors),
                    _lineage(entry["lineage"]),
                    EvalResult(**entry["dev"]),
                )
                for index, entry in enumerate(plain["pool"])
            ]
        ),
        **{name: plain[name] for name in SCALARS},
    )


def _lane(entry: dict[str, Any], tensors: dict[str, Tensor], settings: Settings) -> Lane:
    name = f"lane.{entry['number']}."
    head = _under(f"{name}head.", tensors)
    lane = open_lane(entry["number"], tensors[f"{name}prompt"], head, _lineage(entry["lineage"]), settings)
    lane.age = entry["age"]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _under(f"{name}optimizer.", tensors).items():
        index, _, moment = key.partition(".")
        moments.setdefault(int(index), {})[moment] = tensor
    lane.optimizer.load_state_dict({**lane.optimizer.state_dict(), "state": moments})
    return lane


def _origins(lineage: tuple[Origin, ...]) -> list[dict[str, Any]]:
    return [asdict(origin) for origin in lineage]


def _lineage(origins: list[dict[str, Any]]) -> tuple[Origin, ...]:
    return tuple(Origin(**origin) for origin in origins)
