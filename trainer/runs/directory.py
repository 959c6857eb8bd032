"""A run's folder: never overwritten, complete enough to load, resume and replay."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from shared.config import load
from shared.errors import UserError
from shared.settings import Settings

CONFIG = "config.json"
SUMMARY = "summary.json"
HISTORY = "history.jsonl"
CHECKPOINT = "checkpoint/state.safetensors"
LATEST = "latest"


class RunDirectory:
    """`runs/NAME/` and the files in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        path.mkdir(exist_ok=True)
        self._history = (path / HISTORY).open("a", encoding="utf-8")
        self._before: str | None = None
        """Where `latest` pointed when this folder was created."""

    @classmethod
    def create(cls, settings: Settings) -> "RunDirectory":
        """A new folder for a run.

        Raises:
            UserError: the name is in use, or the folder cannot be written.
        """
        root = Path(settings.folder)
        try:
            root.mkdir(parents=True, exist_ok=True)
            path = _claim(root, settings)
            before = _latest(root)
            _point_latest(root, path.name)
        except OSError as error:
            raise UserError(f"folder = {settings.folder!r}: {error.strerror}: {error.filename}") from None
        folder = cls(path)
        folder._before = before
        folder.write_json(CONFIG, settings.model_dump())
        return folder

    def discard(self) -> None:
        """Take away a folder that `create` made and that holds nothing yet; `latest` points where it did."""
        self.close()
        shutil.rmtree(self.path)
        root = self.path.parent
        if _latest(root) != self.name:
            return  # a run that started since
        if self._before is None:
            (root / LATEST).unlink()
        else:
            _point_latest(root, self._before)

    @classmethod
    def open(cls, name: str, root: str = "runs") -> tuple["RunDirectory", Settings]:
        """A run that exists, by path or by name, and its settings.

        Raises:
            UserError: there is no such run.
        """
        path = find_run(name, root)
        return cls(path), read_settings(path)

    def log(self, kind: str, **values: Any) -> None:
        """Append one event to the history."""
        self._history.write(json.dumps({"kind": kind, **values}, ensure_ascii=False) + "\n")

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write a JSON file whole: readers see the old one or the new one."""
        write_json(self.path / name, values)

    def flush(self) -> None:
        """Hand the history to the system."""
        self._history.flush()

    def close(self) -> None:
        """Close the history."""
        self._history.close()


def has_checkpoint(folder: Path) -> bool:
    """Whether the run in `folder` was saved."""
    return (folder / CHECKPOINT).is_file()


def find_run(name: str, root: str = "runs") -> Path:
    """The folder of a run, named by its path or by its name in `root`; resolves `latest`."""
    for path in (Path(name), Path(root) / name):
        if (path / CONFIG).is_file():
            return path.resolve()
    raise UserError(f"no run {name!r}: there is neither {name}/{CONFIG} nor {root}/{name}/{CONFIG}")


def read_settings(path: Path) -> Settings:
    """The settings of the run in `path`."""
    return load(read_json(path / CONFIG), str(path / CONFIG))


def write_json(path: Path, values: dict[str, Any]) -> None:
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
    except (OSError, ValueError) as error:
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
                f"name = {settings.name!r} is in use: {root / settings.name} exists; choose another"
            ) from None
        return root / settings.name
    stem = f"{re.sub(r'[^A-Za-z0-9._-]', '-', settings.recipe)}-s{settings.seed}"
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
