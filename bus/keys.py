"""CURVE keys of trainers and proposers: `python -m bus.keys new|list|allow|revoke`.

The folder (0700) has the files NAME.secret (0600) and NAME.public of each key made here, and `allowed`, the public keys
of the proposers that a trainer admits, one `KEY NAME` a line. A setting that names a key takes a file or
`env:VARIABLE`.
"""

import argparse
import os
import re
from pathlib import Path
from typing import NoReturn

import zmq

from shared.errors import UserError, run_command

FOLDER = "keys"
ALLOWED = "allowed"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SET_UP = (
    "make a key with `python -m bus.keys new trainer NAME`, and admit each proposer with "
    "`python -m bus.keys allow NAME KEY`"
)
"""The two commands that set CURVE up."""


def read_secret(reference: str, setting: str) -> tuple[bytes, bytes]:
    """The public and the secret key that `reference` names, a file or env:VARIABLE.

    Raises:
        UserError: it cannot be read or is not a key; the key itself is never quoted.
    """
    secret = _checked(_content(reference, setting), f"{setting}: {reference}")
    if not reference.startswith("env:") and Path(reference).stat().st_mode & 0o007:
        raise UserError(f"{setting}: {reference} can be read by everybody; `chmod 600 {reference}`, or make a new key")
    return zmq.curve_public(secret), secret


def read_public(reference: str, setting: str) -> bytes:
    """The public key that `reference` is, or that the file or env:VARIABLE it names has.

    Raises:
        UserError: it cannot be read or is not a key.
    """
    if _is_key(reference) and not reference.startswith("env:"):
        return reference.encode()
    return _checked(_content(reference, setting).split()[:1], f"{setting}: {reference}")


class AllowList:
    """The public keys that a trainer admits, read again whenever the file changes.

    Args:
        reference: a file or env:VARIABLE with a `KEY NAME` on each line.

    Raises:
        UserError: it cannot be read, or a line is not a key.
    """

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._stamp = self._look()
        self._keys = self._read()

    def __contains__(self, key: bytes) -> bool:
        """Whether `key` is admitted. A file that became unreadable admits nobody."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._keys = self._read()
            except UserError:
                self._keys = {}
        return key in self._keys

    def _look(self) -> tuple[int, int, int] | None:
        if self._reference.startswith("env:"):
            return None
        try:
            status = Path(self._reference).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> dict[bytes, str]:
        return _parse_allowed(_content(self._reference, "bus.allowed_keys"), f"bus.allowed_keys: {self._reference}")


def main() -> int:
    """Read the command line and do what it asks for."""
    parser = _Parser(prog="python -m bus.keys", description="Make, list, admit and revoke keys for the bus.")
    parser.add_argument("--folder", type=Path, default=Path(FOLDER), help="where keys are kept (default: keys)")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    new = commands.add_parser("new", help="make a key")
    new.add_argument("role", choices=["trainer", "proposer"])
    new.add_argument("name")
    commands.add_parser("list", help="list the keys made here and the proposers admitted")
    allow = commands.add_parser("allow", help="admit a proposer")
    allow.add_argument("name")
    allow.add_argument("key", nargs="?", help="its public key; default: of the key with this name in the folder")
    commands.add_parser("revoke", help="admit a proposer no longer").add_argument("name")
    options = parser.parse_args()
    folder = options.folder
    if "name" in options and not NAME.fullmatch(options.name):
        raise UserError(f"{options.name!r}: use letters, digits, '.', '_' and '-' for a key's name")
    try:
        match options.command:
            case "new":
                _new(folder, options.role, options.name)
            case "list":
                _list(folder)
            case "allow":
                _allow(folder, options.name, options.key)
            case "revoke":
                _revoke(folder, options.name)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror}") from None
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `python -m bus.keys --help` explains the commands")


def _new(folder: Path, role: str, name: str) -> None:
    _make_folder(folder)
    secret_file, public_file = folder / f"{name}.secret", folder / f"{name}.public"
    public, secret = zmq.curve_keypair()
    while public.startswith(b"-"):  # on a command line it would look like an option
        public, secret = zmq.curve_keypair()
    for path in (secret_file, public_file):
        if path.exists():
            raise UserError(f"{path} exists; nothing was changed. Choose another name, or delete it yourself")
    _write_new(secret_file, secret.decode(), 0o600)
    _write_new(public_file, f"{public.decode()} {name}", 0o644)
    print(f"secret key: {secret_file}   public key: {public.decode()}")
    if role == "trainer":
        allowed = folder / ALLOWED
        if not allowed.exists():
            _write_new(allowed, "", 0o600)
        print(f"trainer:    --bus.secret_key {secret_file} --bus.allowed_keys {allowed}")
        print(f"proposers:  --bus.trainer_keys '[\"{public.decode()}\"]'")
    else:
        print(f"on the trainer's host:  python -m bus.keys allow {name} '{public.decode()}'")
        print(f"this proposer:          --bus.secret_key {secret_file}")


def _list(folder: Path) -> None:
    for path in sorted(folder.glob("*.public")):
        print(f"key      {path.stem:20} {path.read_text(encoding='utf-8').split()[0]}")
    for key, name in _read_allowed(folder).items():
        print(f"allowed  {name:20} {key.decode()}")


def _allow(folder: Path, name: str, key: str | None) -> None:
    public = read_public(key or str(folder / f"{name}.public"), "KEY")
    allowed = _read_allowed(folder)
    if allowed.get(public, name) != name:
        raise UserError(f"this key is admitted already, as {allowed[public]}; nothing was changed")
    if any(other != public and taken == name for other, taken in allowed.items()):
        raise UserError(f"{name} is admitted with another key; `python -m bus.keys revoke {name}` first")
    _make_folder(folder)
    _write_allowed(folder, {**allowed, public: name})
    print(f"{name} is admitted; a running trainer knows at once")


def _revoke(folder: Path, name: str) -> None:
    allowed = _read_allowed(folder)
    left = {key: other for key, other in allowed.items() if other != name}
    if left == allowed:
        raise UserError(f"{folder / ALLOWED}: no proposer {name} is admitted; `python -m bus.keys list` names them")
    _write_allowed(folder, left)
    print(f"{name} is admitted no longer; a running trainer ignores its next message")


def _read_allowed(folder: Path) -> dict[bytes, str]:
    path = folder / ALLOWED
    return _parse_allowed(path.read_text(encoding="utf-8"), str(path)) if path.exists() else {}


def _parse_allowed(text: str, where: str) -> dict[bytes, str]:
    keys: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match line.split():
            case []:
                pass
            case [key, *name] if _is_key(key):
                keys[key.encode()] = " ".join(name)
            case _:
                raise UserError(f"{where}, line {number}: not a KEY and a NAME; use `python -m bus.keys allow`")
    return keys


def _write_allowed(folder: Path, allowed: dict[bytes, str]) -> None:
    """Replace the list at once, so that a trainer never reads half of it."""
    part = folder / f"{ALLOWED}.{os.getpid()}"
    _write_new(part, "\n".join(f"{key.decode()} {name}" for key, name in allowed.items()), 0o600)
    part.replace(folder / ALLOWED)


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        raise UserError(f"{folder} is open to others; `chmod 700 {folder}`, or choose another --folder")


def _write_new(path: Path, text: str, mode: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(text + "\n" if text else "")


def _content(reference: str, setting: str) -> str:
    try:
        if reference.startswith("env:"):
            return os.environ[reference.removeprefix("env:")]
        return Path(reference).read_text(encoding="utf-8")
    except KeyError:
        raise UserError(f"{setting}: {reference.removeprefix('env:')} is not set in the environment") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        if _is_key(reference):
            raise UserError(f"{setting} takes a file or env:VARIABLE that holds the key, not the key itself") from None
        raise UserError(f"{setting}: {reference} cannot be read: {reason}; {SET_UP}") from None


def _checked(content: str | list[str], where: str) -> bytes:
    key = content.strip() if isinstance(content, str) else "".join(content)
    if not _is_key(key):
        raise UserError(f"{where} is not a key; {SET_UP}")
    return key.encode()


def _is_key(text: str) -> bool:
    return re.fullmatch(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}", text) is not None


if __name__ == "__main__":
    run_command(main)
