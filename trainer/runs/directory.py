"""A run's directory: never overwritten, locked while in use, complete enough to load, resume and replay."""

import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from filelock import FileLock, Timeout

from shared.config import load
from shared.errors import UserError
from shared.settings import Settings

log = logging.getLogger(__name__)

CONFIG = "config.json"
"""The run's settings."""
IDENTITY = "run.json"
"""What identifies the run: its id, a fingerprint of its data, versions."""
HISTORY = "history.jsonl"
"""Events, as docs/history.md describes them."""
RECORD = "record.jsonl"
"""Every message, for replay."""
CHECKPOINT = "checkpoint/state.safetensors"
SUMMARY = "summary.json"
"""Figures of a finished run; written last."""
BASELINE = "baseline"
"""Directory of the plain run that a run compares itself with."""
CONTROL = "control"
"""Directory of the run with random words that a run compares itself with."""
BEST = "best"
"""Directory of the result."""
BEST_TENSORS = "best/best.safetensors"
BEST_DESCRIPTION = "best/best.json"
BEST_README = "best/README.md"
LATEST = "latest"
"""Link to the newest run, in the folder of all runs."""
LOCK = ".lock"


class RunDirectory:
    """`runs/NAME/`, used by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Use the directory at `path`, which is made if absent.

        Raises:
            UserError: another process uses it.
        """
        path.mkdir(exist_ok=True)
        self.path = path
        self.name = path.name
        self._lock = FileLock(path / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{path} is in use by another process; wait for it or stop it") from None
        self._replaced_latest: str | None = None
        """The target of `latest` before this directory was created."""

    @classmethod
    def create(cls, settings: Settings) -> "RunDirectory":
        """A new directory for a run.

        Raises:
            UserError: the name is in use, or the directory cannot be written.
        """
        root = Path(settings.folder)
        directory = None
        try:
            root.mkdir(parents=True, exist_ok=True)
            path = _claim(root, settings)
            before = _latest(root)
            _point_latest(root, path.name)
            directory = cls(path)
            directory._replaced_latest = before
            directory.begin(settings)
        except OSError as error:
            if directory:
                directory.discard()
            where = error.filename or root
            raise UserError(f"folder = {settings.folder!r} cannot be written: {error.strerror}: {where}") from None
        return directory

    @classmethod
    def open(cls, name: str, root: str = "runs") -> "RunDirectory":
        """An existing run, by path or by name.

        Raises:
            UserError: no such run, or another process uses it.
        """
        return cls(find_run(name, root))

    def begin(self, settings: Settings) -> None:
        """Write what a run is, before its first event."""
        self.write_json(CONFIG, settings.model_dump(mode="json"))
        self.write_json(
            IDENTITY,
            {"id": f"{self.name[:150]}-{secrets.token_hex(8)}", "created": time.time(), "versions": _versions()},
        )

    def nested(self, name: str, settings: Settings) -> "RunDirectory":
        """The directory of a run that belongs to this one; made if absent."""
        inner = RunDirectory(self.path / name)
        if not (inner.path / CONFIG).is_file():
            inner.begin(settings)
        return inner

    def pack(self) -> dict[str, bytes]:
        """The files that a copy of this directory needs to take part in the run, by name."""
        names = [IDENTITY, CONFIG, CHECKPOINT]
        names += [f"{folder}/{name}" for folder in (BASELINE, CONTROL) for name in names]
        return {name: (self.path / name).read_bytes() for name in names if (self.path / name).is_file()}

    @classmethod
    def unpack(cls, path: Path, files: Mapping[str, bytes]) -> "RunDirectory":
        """A copy at `path` of the directory whose `pack` gave `files`."""
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return cls(path)

    @property
    def id(self) -> str:
        """Unique for each run, also among runs of one name."""
        return str(read_json(self.path / IDENTITY)["id"])

    @property
    def versions(self) -> dict[str, str]:
        """Of Python and the packages that shape the result, as the run began."""
        return dict(read_json(self.path / IDENTITY).get("versions", {}))

    @property
    def is_finished(self) -> bool:
        """Whether the run has its summary."""
        return (self.path / SUMMARY).is_file()

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run was saved."""
        return (self.path / CHECKPOINT).is_file()

    def check_data(self, fingerprint: Mapping[str, str]) -> None:
        """Keep the fingerprint of each split, or compare with what was kept.

        Raises:
            UserError: the data is not what the run began with.
        """
        changed = self._compare("data", fingerprint)
        if changed:
            raise UserError(
                f"{self.path}: the {' and '.join(changed)} data is not what the run began with; "
                "restore the files, or start a new run"
            )

    def check_model(self, fingerprint: str) -> None:
        """Keep the fingerprint of the frozen model, or compare with what was kept.

        Raises:
            UserError: the model is not the one that the run began with.
        """
        if self._compare("model", {"embeddings": fingerprint}):
            raise UserError(
                f"{self.path}: the model is not the one that the run began with; restore its files, or start a new run"
            )

    def _compare(self, what: str, fingerprint: Mapping[str, str]) -> list[str]:
        """The names whose fingerprint is another than that kept; the first one is kept."""
        identity = read_json(self.path / IDENTITY)
        kept = identity.setdefault(what, dict(fingerprint))
        changed = [name for name, value in fingerprint.items() if not isinstance(kept, dict) or kept.get(name) != value]
        if not changed:
            self.write_json(IDENTITY, identity)
        return changed

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file whole: readers see the old one or the new one."""
        write_json(self.path / name, values)

    def discard(self) -> None:
        """Remove a directory that `create` made and that holds nothing yet; `latest` points where it did."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)  # somebody may have removed it before
        root = self.path.parent
        if _latest(root) != self.name:
            return  # a run that started since
        if self._replaced_latest is None:
            (root / LATEST).unlink(missing_ok=True)
        else:
            _point_latest(root, self._replaced_latest)

    def close(self) -> None:
        """Let others use the directory. Idempotent."""
        self._lock.release()


def find_run(name: str, root: str = "runs") -> Path:
    """The directory of a run, given by its path or by its name in `root`; resolves `latest`."""
    for path in (Path(name), Path(root) / name):
        if (path / CONFIG).is_file():
            return path.resolve()
    raise UserError(f"no run {name!r}: there is neither {name}/{CONFIG} nor {root}/{name}/{CONFIG}")


def read_settings(path: Path) -> Settings:
    """The settings of the run in `path`."""
    return load(read_json(path / CONFIG), str(path / CONFIG))


def warn_of_versions(path: Path) -> None:
    """Say if the run in `path` began with other versions, with which weights are not the same bit for bit."""
    kept, now = read_json(path / IDENTITY).get("versions"), _versions()
    if isinstance(kept, dict) and (other := {name: value for name, value in kept.items() if now.get(name) != value}):
        found = ", ".join(f"{name} {value} (now {now.get(name)})" for name, value in sorted(other.items()))
        log.warning("%s began with %s; weights may differ in their last bits", path, found)


def _versions() -> dict[str, str]:
    """Of what shapes a run's result."""
    return {"python": python_version()} | {name: version(name) for name in ("torch", "transformers")}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file whole: readers see the old one or the new one."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of ours.

    Raises:
        UserError: it is absent or damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: does not hold a JSON object")
    return values


def _claim(root: Path, settings: Settings) -> Path:
    if settings.name is not None:
        if settings.name == LATEST:
            raise UserError(f"name = {LATEST!r} is the link to the newest run; choose another")
        try:
            (root / settings.name).mkdir()
        except FileExistsError:
            raise UserError(
                f"name = {settings.name!r} is in use: {root / settings.name} exists; choose another, "
                "or continue it with --if-exists resume"
            ) from None
        return root / settings.name
    stem = f"{re.sub(r'[^A-Za-z0-9._-]', '-', settings.recipe)[:100]}-s{settings.seed}"
    number = 1
    while True:
        path = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _latest(root: Path) -> str | None:
    link = root / LATEST
    return str(link.readlink()) if link.is_symlink() else None


def _point_latest(root: Path, name: str) -> None:
    link = root / f".latest-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.replace(root / LATEST)
