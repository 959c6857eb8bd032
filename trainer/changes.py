"""Which settings may change when a run is resumed."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.settings import Settings
from trainer.runs.directory import CONFIG, RunDirectory

FREE = {"name", "folder", "device", "threads", "baseline", "bus", "metrics", "proposer", "track"}
FREE |= {"optimizer.micro_batch", "backbone.attention", "backbone.checkpointing", "backbone.device_map"}
FREE |= {"backbone.cuda_graphs", "backbone.num_workers", "backbone.features"}
"""Settings that say where and how a run computes and talks and what it is compared with, and not what it finds."""


def accept_changes(kept: Settings, given: Settings, directory: RunDirectory) -> Settings:
    """The settings to continue with, written to the run's directory where they differ from those `kept`.

    Raises:
        UserError: they differ in what would make it another run.
    """
    more_steps = given.steps > kept.steps
    refuse_differences(kept, given, directory.path, {"steps"} if more_steps else set())
    if more_steps:
        given = _with_more_steps(kept, given, directory)
    if given != kept:
        directory.write_json(CONFIG, given.model_dump(mode="json"))
    return given


def refuse_differences(kept: Settings, given: Settings, path: Path, allowed: Collection[str] = ()) -> None:
    """Compare settings with those `kept` of the run at `path`, except those that are free or `allowed`.

    Raises:
        UserError: they differ; the line names the first difference.
    """
    old, new = _flat(kept.model_dump(mode="json")), _flat(given.model_dump(mode="json"))
    for key, value in new.items():
        if value != old[key] and not {key, key.split(".")[0]} & {*FREE, *allowed}:
            raise UserError(
                f"{path}: {key} is {old[key]!r} in this run, not {value!r}; leave that setting out, or start a new run"
            )


def _with_more_steps(kept: Settings, given: Settings, directory: RunDirectory) -> Settings:
    """A larger budget, evaluated at the same interval as before."""
    if directory.is_finished:
        raise UserError(
            f"{directory.path} is finished and its test data used; start a new run with --steps {given.steps}"
        )
    if kept.epochs is not None or kept.optimizer.schedule != "constant":
        raise UserError(
            f"steps = {given.steps}: the learning rate so far followed a {kept.optimizer.schedule} schedule over "
            f"{kept.steps} lane-steps, so a larger budget is another run; start a new one"
            if kept.epochs is None
            else f"steps = {given.steps}: the budget of this run is set by epochs = {kept.epochs}; start a new one"
        )
    evaluations, remainder = divmod(given.steps * kept.num_evals, kept.steps)
    if remainder:
        interval = kept.steps / kept.num_evals
        raise UserError(
            f"steps = {given.steps} is not a multiple of the {interval:g} lane-steps between evaluations of this run"
        )
    return given.model_copy(update={"num_evals": evaluations})


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key != "labels":
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
