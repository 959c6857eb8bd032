"""Whole runs from Python: start, resume, replay. `python -m trainer` and `scripts/compare` call the same functions."""

import logging
import os
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from safetensors import SafetensorError

from bus.channel import Channel
from shared import health
from shared.errors import UserError, first_line
from shared.settings import Settings
from trainer import ranks
from trainer.changes import accept_changes, refuse_differences
from trainer.hooks import Hooks
from trainer.report.live import LivePage
from trainer.report.page import write_report
from trainer.runs.directory import CONFIG, RECORD, SUMMARY, RunDirectory, find_run, read_settings, warn_of_versions
from trainer.runs.metrics import TrainerMetrics
from trainer.runs.signals import Stopped
from trainer.sources import asked_early, known_labels, open_bus

if TYPE_CHECKING:  # loads torch
    from trainer.result.run_result import RunResult

log = logging.getLogger(__name__)

IfExists = Literal["fail", "resume"]


def run(settings: Settings, *, if_exists: IfExists = "fail", hooks: Hooks | None = None) -> "RunResult":
    """Tune a prompt, test it once, keep the result.

    Args:
        settings: of the run.
        if_exists: what to do where `settings.name` is in use: refuse, or resume that run. A finished one is returned.
        hooks: listeners and the like.

    Raises:
        UserError: a setting, the data, the model or the disk is at fault; the text says which and what to do.
        Stopped: SIGTERM or Ctrl-C; `resume` continues the run.
    """
    if ranks.is_follower():
        return follow(hooks)
    if if_exists == "resume":
        if settings.name is None:
            raise UserError("--if-exists resume needs the run's name; set --name")
        path = Path(settings.folder) / settings.name
        if (path / SUMMARY).is_file():
            refuse_differences(read_settings(path), settings, path)
            log.info("%s is finished", path)
            from trainer.result.run_result import RunResult

            return RunResult.load(path)
        if (path / CONFIG).is_file():
            return resume(str(path), settings=settings, hooks=hooks)
    return _carry_out(RunDirectory.create(settings), settings, None, hooks or Hooks())


def resume(name: str, *, settings: Settings | None = None, hooks: Hooks | None = None) -> "RunResult":
    """Continue a run that was stopped.

    Args:
        name: its directory, or its name in `runs`.
        settings: to continue with. They may differ in where and how the run computes and talks, and in a larger
            `steps` where the learning rate does not depend on the budget.
        hooks: listeners and the like.

    Raises:
        UserError: no such run, it is finished, another process uses it, or `settings` or the data differ
            from its own.
        Stopped: SIGTERM or Ctrl-C.
    """
    if ranks.is_follower():
        return follow(hooks)
    directory = RunDirectory.open(name, settings.folder if settings else "runs")
    try:
        kept = read_settings(directory.path)
        accepted = kept if settings is None else accept_changes(kept, settings, directory)
        if directory.is_finished:
            raise UserError(f"{directory.path} is finished; see its {SUMMARY}")
        warn_of_versions(directory.path)
    except UserError:
        directory.close()
        raise
    return _carry_out(directory, accepted, None, hooks or Hooks())


def replay(name: str, *, settings: Settings | None = None, hooks: Hooks | None = None) -> "RunResult":
    """Repeat a run with its recorded proposals, without an LLM, in a new directory.

    The weights are the same bit for bit on the same machine with the same number of threads.

    Args:
        name: its directory, or its name in `runs`.
        settings: to repeat it with. They may differ in where and how the run computes and talks.
        hooks: listeners and the like.

    Raises:
        UserError: no such run, its record is damaged, or `settings` differ from its own.
        Stopped: SIGTERM or Ctrl-C.
    """
    if ranks.is_follower():
        return follow(hooks)
    recorded = find_run(name, settings.folder if settings else "runs")
    kept = read_settings(recorded)
    warn_of_versions(recorded)
    if settings is None:
        settings = kept.model_copy(update={"name": None})
    else:
        refuse_differences(kept, settings, recorded)
    return _carry_out(RunDirectory.create(settings), settings, recorded / RECORD, hooks or Hooks())


def follow(hooks: Hooks | None = None) -> "RunResult":
    """Take part in the run of rank 0 as another rank, which has its settings from there and writes nothing.

    `run`, `resume` and `replay` do this in a process that a launcher started as such a rank.

    Args:
        hooks: `load` and `signals` count; listeners are called on rank 0 alone.

    Raises:
        UserError: the run failed, here or on rank 0.
        Stopped: SIGTERM or Ctrl-C.
    """
    hooks = hooks or Hooks()
    path = Path("RUN")
    with (
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        TemporaryDirectory(prefix="tandem-") as folder,
        hooks.signals.installed(),
    ):
        try:
            ranks.join()
            settings, files, path = ranks.broadcast((Settings(), dict[str, bytes](), Path()))
            directory = RunDirectory.unpack(Path(folder), files)
            from trainer.execution import tune_and_test

            hooks = Hooks(load=hooks.load, signals=hooks.signals)
            metrics, life = TrainerMetrics(recipe=settings.recipe, run=directory.name), health.Health(0)
            return tune_and_test(directory, settings, None, None, hooks, metrics, life)
        except ranks.LostRank as error:
            raise error.continued(path) from error
        finally:
            ranks.leave()


def _carry_out(directory: RunDirectory, settings: Settings, record: Path | None, hooks: Hooks) -> "RunResult":
    metrics = TrainerMetrics(recipe=settings.recipe, run=directory.name)
    life = health.Health(settings.metrics.stale_seconds)
    page = LivePage(directory.path, settings.metrics.host).respond if settings.metrics.page else None
    server = health.start(settings.metrics, metrics.registry, life, page)
    hooks.signals.farewell = f"stopped; continue with: python -m trainer --resume {directory.path}"
    bus: Channel | None = None
    try:
        bus = None if record else open_bus(settings, directory.id)
        bus = asked_early(bus, directory, settings, known_labels(settings))
        with hooks.signals.installed():
            ranks.join()
            ranks.broadcast((settings, directory.pack(), directory.path))
            with _trackers(settings, directory):
                # here, since these load torch and proposers can connect meanwhile
                from trainer.backbones.passes import after_each_chunk
                from trainer.execution import tune_and_test

                life.beat()
                with after_each_chunk(life.beat):
                    return tune_and_test(directory, settings, bus, record, hooks, metrics, life)
    except Stopped:
        log.info(hooks.signals.farewell)
        raise
    except ranks.LostRank as error:
        hooks.signals.ending = True  # the launcher's signal comes while the run is closed
        raise error.continued(directory.path) from error
    except UserError:
        if not directory.has_checkpoint:
            directory.discard()  # bad data, a bad model or a port in use: nothing was trained
        raise
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{directory.path} cannot be written ({first_line(error)}); free some space, then continue the run with "
            "--resume"
        ) from error
    finally:
        life.ending = True
        ranks.leave()
        _report(directory)
        directory.close()
        if bus:
            bus.close()
        if server:
            server.close()


def _trackers(settings: Settings, directory: RunDirectory) -> AbstractContextManager[object]:
    if not settings.track:
        return nullcontext()
    from trainer.trackers import Trackers  # here, since accelerate's trackers take seconds to import

    return Trackers(settings, directory)


def _report(directory: RunDirectory) -> None:
    """Write the run's report, which is optional: a fault is a warning."""
    if not directory.path.is_dir():  # discarded
        return
    try:
        write_report(directory.path)
    except Exception as error:
        log.warning("%s: the report cannot be written: %s", directory.path, first_line(error))
