"""A folder of images for each class."""

from pathlib import Path

from shared.errors import UserError
from trainer.tasks.examples import Example
from trainer.tasks.raw import RawExample

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
"""Suffixes of image files, in small letters."""


def read_class_folders(folder: Path) -> list[RawExample]:
    """The images `folder`/CLASS/*, in the order of their names; the raw label is the name of the class's folder.

    Hidden files and folders are skipped, and so are files with suffixes not in `SUFFIXES`.

    Raises:
        UserError: there are no classes, one without images, or one whose name is not Unicode.
    """
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{folder}: it holds no folders; images are read from a folder for each class")
    return [row for entry in classes for row in _read_class(entry)]


def _read_class(folder: Path) -> list[RawExample]:
    images = sorted(
        entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
    )
    if not folder.name.isprintable():  # labels are printed, and written as UTF-8
        raise UserError(f"{str(folder)!r}: a class's folder has a name of printable Unicode characters; rename it")
    if not images:
        raise UserError(f"{folder}: there are no images in it ({', '.join(sorted(SUFFIXES))}); add images or remove it")
    return [(Example(image=image), folder.name) for image in images]
