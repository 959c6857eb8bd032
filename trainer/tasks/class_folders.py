"""A folder of images for each class."""

from pathlib import Path

from shared.errors import UserError
from trainer.tasks.examples import Example
from trainer.tasks.raw import RawExample

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
"""Endings of files that are taken for images, in small letters."""


def read_class_folders(folder: Path) -> list[RawExample]:
    """The images `folder`/CLASS/*, in the order of their names; the raw label is the name of the class's folder.

    Hidden files and folders are passed over, and so are files with other endings than `SUFFIXES`.

    Raises:
        UserError: there are no classes, or one without images.
    """
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{folder}: it holds no folders; images are read from one folder for each class")
    return [row for entry in classes for row in _read_class(entry)]


def _read_class(folder: Path) -> list[RawExample]:
    images = sorted(
        entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
    )
    if not images:
        raise UserError(f"{folder}: there are no images in it ({', '.join(sorted(SUFFIXES))}); fill it or take it away")
    return [(Example(image=image), folder.name) for image in images]
