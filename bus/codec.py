"""Messages to bytes and back, with limits. Whatever bytes come in, only a `BadFrame` leaves `decode`."""

from typing import Any, ClassVar, Literal, NoReturn

import msgpack  # type: ignore[import-untyped]
from pydantic import ValidationError

from bus.messages import VERSION, Digest, Message, Reject, Work, message_type
from shared.errors import UserError

# The longest of each in bus/messages: 2,000 characters of text at 4 bytes, 1,000 labels, a digest's fields.
MAX_TEXT_BYTES = 8_000
MAX_LIST = 1_000
MAX_FIELDS = 32


class BadFrame(Exception):
    """Bytes that are not a valid message. The error's text never repeats them."""

    reason: ClassVar[Literal["version", "malformed"]]

    def __init__(self, detail: str, *, answerable: bool = True) -> None:
        super().__init__(detail)
        self.answerable = answerable
        """False for a reject: answering those would let two peers reject each other for ever."""

    def answer(self) -> Reject:
        """The reject to send back where `answerable`."""
        return Reject(reason=self.reason, detail=str(self)[:200])


class Malformed(BadFrame):
    """Not a message."""

    reason = "malformed"


class UnknownVersion(BadFrame):
    """A message of another version of the protocol."""

    reason = "version"


class TooLong(UserError):
    """A message of ours does not fit into a frame."""


def encode(message: Message, max_bytes: int) -> bytes:
    """The frame that says `message`.

    Raises:
        TooLong: it would be longer than `max_bytes`.
    """
    frame: bytes = msgpack.packb(message.model_dump(mode="python"))
    _check_length(message.kind, len(frame), max_bytes)
    return frame


def encode_digest(digest: Digest, max_bytes: int) -> bytes:
    """The part of a work message that says `digest`, for `encode_work`: it is encoded once for all its leases.

    Raises:
        TooLong: a work message with it would be longer than `max_bytes`.
    """
    part: bytes = msgpack.packb(digest.model_dump(mode="python"))
    _check_length("work", len(encode_work("0" * 32, 1.0, part)), max_bytes)
    return part


def encode_work(lease: str, seconds: float, digest: bytes) -> bytes:
    """The frame of a work message whose digest is encoded already."""
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_header(len(Work.model_fields))
    for part in ("v", VERSION, "kind", "work", "lease", lease, "seconds", seconds, "digest"):
        packer.pack(part)
    return bytes(packer.bytes()) + digest


def decode(frame: bytes, max_bytes: int) -> Message:
    """The message that `frame` says.

    Raises:
        UnknownVersion: it is of another version of the protocol.
        Malformed: it is anything else but a message, or longer than `max_bytes`.
    """
    if len(frame) > max_bytes:
        raise Malformed(f"longer than {max_bytes} bytes")
    fields = _unpack(frame)
    if not isinstance(fields, dict):
        raise Malformed("not a map")
    version = fields.get("v")
    answerable = fields.get("kind") != "reject"
    if type(version) is not int:  # True is an int, and equals 1
        raise Malformed("v is missing or not an integer", answerable=answerable)
    if version != VERSION:
        raise UnknownVersion(f"version {VERSION} is spoken here", answerable=answerable)
    try:
        return message_type.validate_python(fields, strict=True)
    except ValidationError as error:
        raise Malformed(_first_fault(error), answerable=answerable) from None


def _check_length(kind: str, length: int, max_bytes: int) -> None:
    if length > max_bytes:
        raise TooLong(f"a {kind} message has {length} bytes; raise bus.max_frame_bytes on both sides")


def _unpack(frame: bytes) -> Any:
    try:
        return msgpack.unpackb(
            frame,
            strict_map_key=True,
            ext_hook=_refuse_ext,
            max_str_len=MAX_TEXT_BYTES,
            max_bin_len=0,
            max_array_len=MAX_LIST,
            max_map_len=MAX_FIELDS,
            max_ext_len=0,
        )
    except ValueError as error:  # all of msgpack's exceptions, and text that is not UTF-8
        raise Malformed(f"not msgpack within the limits ({type(error).__name__})") from None


def _refuse_ext(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"ext type {code} with {len(data)} bytes")


def _first_fault(error: ValidationError) -> str:
    """Where the first fault is and what; field names of the sender's own are left out."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in fault["loc"] if fault["type"] != "extra_forbidden")
    return f"{where or 'message'}: {fault['type']}"
