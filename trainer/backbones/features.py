"""Vectors of encoded images on disk, so that a data set is encoded once for all runs of a model."""

import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from shared.errors import first_line

log = logging.getLogger(__name__)


class Features:
    """A table of vectors for one model, shared by the runs that use it. A disk that takes none is a warning."""

    def __init__(self, folder: Path, model: str) -> None:
        """Open the table of the model that `model` identifies, in `folder`."""
        self._path = folder / f"{hashlib.sha256(model.encode()).hexdigest()[:32]}.sqlite"
        self._table: sqlite3.Connection | None = None
        with self._warning():
            folder.mkdir(parents=True, exist_ok=True)
            table = sqlite3.connect(self._path, timeout=60)
            table.execute("CREATE TABLE IF NOT EXISTS features (image BLOB PRIMARY KEY, vector BLOB)")
            self._table = table

    def find(self, images: Iterable[Path | bytes]) -> dict[Path | bytes, Tensor]:
        """The vectors [dim] of those of `images` that are known."""
        found: dict[Path | bytes, Tensor] = {}
        for image in images:
            with self._warning(), suppress(FileNotFoundError):  # whoever reads the file says that it is absent
                key = _key(image)
                if self._table and (
                    row := self._table.execute("SELECT vector FROM features WHERE image = ?", [key]).fetchone()
                ):
                    found[image] = torch.frombuffer(bytearray(row[0]), dtype=torch.float32)
        return found

    def keep(self, vectors: Mapping[Path | bytes, Tensor]) -> None:
        """Add the vectors [dim] of images."""
        with self._warning():
            rows = [(_key(image), vector.float().cpu().numpy().tobytes()) for image, vector in vectors.items()]
            if self._table:
                with self._table:
                    self._table.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)

    @contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            log.warning("%s: cannot be used (%s); images are encoded again", self._path, first_line(error))
            self._table = None


def cache_folder(setting: str) -> Path:
    """The folder that `backbone.features` names."""
    if setting == "auto":
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tandem"
    return Path(setting).expanduser()


def identify(name: str, commit: str | None) -> str:
    """What tells the model in a folder or file, or of the hub at a `commit`, from others, image processor included."""
    place = Path(name)
    files = sorted(file for file in (place, *place.rglob("*")) if file.is_file())
    return "\n".join([name if not files else str(place.resolve()), commit or "", *map(_stamp, files)])


def _key(image: Path | bytes) -> bytes:
    said = image if isinstance(image, bytes) else _stamp(image).encode()
    return hashlib.sha256(said).digest()


def _stamp(file: Path) -> str:
    """A file's place, size and time of change."""
    status = file.stat()
    return f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"
