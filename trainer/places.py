"""Folders and hub names of models and data."""

from importlib.resources import files
from pathlib import Path

from shared.errors import UserError


def find_folder(path: str, key: str) -> Path:
    """The folder that a setting names: a path, or `package:NAME/FOLDER` inside an installed package.

    Args:
        path: the setting's value.
        key: the setting's name, for the error.
    """
    if path.startswith("package:"):
        package, _, inside = path.removeprefix("package:").partition("/")
        try:
            folder = Path(str(files(package) / inside))
        except ModuleNotFoundError:
            raise UserError(
                f"{key} = {path!r}: package {package!r} is not installed; pip install 'tandem-tuning[embedded]'"
            ) from None
    else:
        folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{key} = {path!r}: there is no such folder")
    return folder
