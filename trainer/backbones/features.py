"""Vectors of encoded images on disk, so that a data set is encoded once for all runs of a model."""

import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.errors import first_line

log = logging.getLogger(__name__)

AT_ONCE = 500
"""Keys in one query."""


class Features:
    """A table of vectors for one model, shared by the runs that use it. A disk that takes none is a warning."""

    def __init__(self, folder: Path, model: str) -> None:
        """Open the table of the model that `model` identifies, in `folder`."""
        self._path = folder / f"{hashlib.sha256(model.encode()).hexdigest()[:32]}.sqlite"
        self._table: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            self._table.execute("CREATE TABLE IF NOT EXISTS features (image BLOB PRIMARY KEY, vector BLOB)")
        except (OSError, sqlite3.Error) as error:
            self._fail(error)

    def find(self, images: Iterable[Path | bytes]) -> dict[Path | bytes, Tensor]:
        """The vectors [dim] of those of `images` that are known."""
        keys: dict[bytes, Path | bytes] = {}
        for image in images if self._table else ():
            with suppress(OSError):  # whoever reads the file says what is wrong with it
                keys[_key(image)] = image
        found: dict[Path | bytes, Tensor] = {}
        wanted = list(keys)
        for start in range(0, len(wanted), AT_ONCE):
            part = wanted[start : start + AT_ONCE]
            marks = ",".join("?" * len(part))
            for key, vector in self._execute(f"SELECT image, vector FROM features WHERE image IN ({marks})", part):
                found[keys[key]] = torch.from_numpy(np.frombuffer(vector, dtype=np.float32).copy())
        return found

    def keep(self, vectors: Mapping[Path | bytes, Tensor]) -> None:
        """Add the vectors [dim] of images."""
        for image, vector in vectors.items():
            row = (_key(image), vector.float().cpu().numpy().tobytes())
            self._execute("INSERT OR REPLACE INTO features VALUES (?, ?)", row)

    def _execute(self, statement: str, values: Any) -> list[tuple[bytes, bytes]]:
        if self._table is None:
            return []
        try:
            return self._table.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            self._fail(error)
            return []

    def _fail(self, error: Exception) -> None:
        log.warning("%s: cannot be used (%s); images are encoded again", self._path, first_line(error))
        self._table = None


def cache_folder(setting: str) -> Path:
    """The folder that `backbone.features` names."""
    if setting == "auto":
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tandem"
    return Path(setting).expanduser()


def identify(name: str, commit: str | None) -> str:
    """What tells the model in a folder, or of the hub at a `commit`, from others, image processor included."""
    folder = Path(name)
    files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else []
    return "\n".join([name if not files else str(folder.resolve()), commit or "", *map(_stamp, files)])


def _key(image: Path | bytes) -> bytes:
    said = image if isinstance(image, bytes) else _stamp(image).encode()
    return hashlib.sha256(said).digest()


def _stamp(file: Path) -> str:
    """A file's place, size and time of change."""
    status = file.stat()
    return f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"
