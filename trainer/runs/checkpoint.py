"""Save and restore all of a run that changes, as one safetensors file replaced in one move."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shared.errors import UserError
from shared.settings import Settings
from trainer.runs.directory import CHECKPOINT
from trainer.search.evaluation import EvalResult
from trainer.search.lanes import Lane, Origin, open_lane
from trainer.search.pool import Pool, Snapshot
from trainer.search.prompt_init import PromptInit
from trainer.search.restarts import Restarts
from trainer.search.state import State
from trainer.search.trajectory import Trajectory


def save_checkpoint(folder: Path, state: State, starts: PromptInit) -> None:
    """Write the checkpoint of the run in `folder`; a reader sees the old one or the new one."""
    path = folder / CHECKPOINT
    path.parent.mkdir(exist_ok=True)
    tensors: dict[str, Tensor] = {"starts": starts.generator.get_state()}
    for lane in state.lanes:
        tensors |= _parameters(f"lane.{lane.number}.", lane.prompt.detach(), lane.head)
        for index, moments in lane.optimizer.state_dict()["state"].items():
            tensors |= {f"lane.{lane.number}.optimizer.{index}.{name}": value for name, value in moments.items()}
    for index, snapshot in enumerate(state.pool.snapshots):
        tensors |= _parameters(f"pool.{index}.", snapshot.prompt, snapshot.head)
    part = path.with_suffix(".part")
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, part, {"state": json.dumps(_plain(state))}
    )
    part.replace(path)


def load_checkpoint(folder: Path, settings: Settings, starts: PromptInit, device: torch.device) -> State:
    """The state saved in `folder`.

    Raises:
        UserError: the checkpoint is absent or damaged.
    """
    path = folder / CHECKPOINT
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        starts.generator.set_state(tensors["starts"])
        return _restore(plain, {name: tensor.to(device) for name, tensor in tensors.items()}, settings)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be resumed from: {error}") from None


def _parameters(place: str, prompt: Tensor, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{place}prompt": prompt} | {f"{place}head.{name}": value.detach() for name, value in head.items()}


def _under(place: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(place): tensor for key, tensor in tensors.items() if key.startswith(place)}


def _plain(state: State) -> dict[str, Any]:
    return {
        "lanes": [{"number": lane.number, "age": lane.age, "lineage": _origins(lane.lineage)} for lane in state.lanes],
        "dev": asdict(state.dev),
        "trajectory": state.trajectory.state_dict(),
        "restarts": state.restarts.state_dict(),
        "pool": [
            {"lane": kept.lane, "step": kept.step, "lineage": _origins(kept.lineage), "dev": asdict(kept.dev)}
            for kept in state.pool.snapshots
        ],
        "spent": state.lane_steps,
        "turns": state.iterations,
        "opened": state.opened,
        "seconds": state.seconds,
        "stalled_seconds": state.stalled_seconds,
    }


def _restore(plain: dict[str, Any], tensors: dict[str, Tensor], settings: Settings) -> State:
    return State(
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
        **{key: plain[key] for key in ("spent", "turns", "opened", "seconds", "stalled_seconds")},
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
