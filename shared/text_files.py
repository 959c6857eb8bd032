"""Text files: UTF-8, with or without a byte order mark, and lines that end at line feeds and nowhere else."""

from pathlib import Path

from shared.errors import UserError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file without its byte order mark.

    Raises:
        OSError: the file cannot be read.
        UserError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: byte {error.start + 1} is {error.object[error.start]:#04x}") from None


def split_lines(text: str) -> list[str]:
    """Lines of a text, which end with a line feed, or a carriage return and a line feed."""
    return [line.removesuffix("\r") for line in text.split("\n")]
