"""What EdgeCore and the process of a mapper say to each other: length-prefixed msgpack on a socket pair.

Both ends are of one program and one version, so there is no negotiation. A frame is capped all the same: what
a device says ends up in it.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec

from edge.mappers.driver import DeviceUnreachable, NotServed, Reading
from edge.mappers.family import Discovered
from gateway.errors import BadRequest, NotFound

MAX_FRAME = 1024 * 1024
MAX_UNSENT = 4 * 1024 * 1024
"""Bytes that may wait for the other end; one that reads no more is broken."""
_LENGTH = struct.Struct(">I")

# --- EdgeCore to child -----------------------------------------------------------------------------


class Hello(msgspec.Struct, tag=True):
    """The first frame: who the child is."""

    maker: str
    settings: dict[str, Any]
    folder: str
    log_level: str
    log_form: str


class Open(msgspec.Struct, tag=True):
    """Make the driver of a Device; `device` is the number of it on this link."""

    device: int
    document: dict[str, Any]
    model: dict[str, Any] | None


class Call(msgspec.Struct, tag=True):
    """Do something with a driver: connect, read `names`, write `name` `text`, withdraw `name`, close."""

    id: int
    device: int
    what: str
    names: list[str] = []
    name: str = ""
    text: str = ""


class Ask(msgspec.Struct, tag=True):
    """Give the family an order."""

    id: int
    name: str
    arguments: dict[str, str]


class Cancel(msgspec.Struct, tag=True):
    """Nobody waits for a call any more."""

    id: int


class Ping(msgspec.Struct, tag=True):
    """Say how you are."""


# --- child to EdgeCore -----------------------------------------------------------------------------


class Up(msgspec.Struct, tag=True):
    """The family works."""

    orders: list[str]


class Broken(msgspec.Struct, tag=True):
    """The family cannot work until somebody changes something."""

    message: str


class Done(msgspec.Struct, tag=True):
    """A call went well; faults are what a driver has nothing for."""

    id: int
    readings: dict[str, Reading] = {}
    faults: dict[str, str] = {}
    result: dict[str, Any] = {}


class Failed(msgspec.Struct, tag=True):
    """A call failed: `kind` is unreachable, rejected, notserved, timeout or error."""

    id: int
    kind: str
    message: str
    status: int = 500
    code: str = ""


class Changed(msgspec.Struct, tag=True):
    """These devices have something new to read."""

    devices: list[int]


class Seen(msgspec.Struct, tag=True):
    """Devices that the family sees."""

    found: list[Discovered]
    lost: list[str] = []


class State(msgspec.Struct, tag=True):
    """How the child is: the answer to a ping. `counts` are what was counted since the last one."""

    resident: int
    facts: dict[str, Any]
    counts: dict[str, int]


ToChild = Hello | Open | Call | Ask | Cancel | Ping
ToParent = Up | Broken | Done | Failed | Changed | Seen | State

_encoder = msgspec.msgpack.Encoder()
to_child = msgspec.msgpack.Decoder(ToChild)
to_parent = msgspec.msgpack.Decoder(ToParent)


class LinkBroken(ConnectionError):
    """The other end has gone, or says what cannot be."""


class FrameTooLong(LinkBroken):
    """What is to be said does not fit; the link itself is well."""


def send(writer: asyncio.StreamWriter, frame: ToChild | ToParent) -> None:
    """Queue a frame. Errors: LinkBroken when the other end reads no more; FrameTooLong."""
    data = _encoder.encode(frame)
    if len(data) > MAX_FRAME:
        raise FrameTooLong(f"a frame of {len(data)} bytes: at most {MAX_FRAME}")
    if writer.transport.get_write_buffer_size() > MAX_UNSENT:
        raise LinkBroken("the other end reads no more")
    writer.write(_LENGTH.pack(len(data)) + data)


async def receive(reader: asyncio.StreamReader) -> bytes:
    """Return the next frame's bytes. Errors: LinkBroken."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_FRAME:
            raise LinkBroken(f"a frame of {length} bytes: at most {MAX_FRAME}")
        return await reader.readexactly(length)
    except (OSError, asyncio.IncompleteReadError) as error:
        raise LinkBroken("the other end has gone") from error


class DriverFailed(Exception):
    """A driver has a bug; the mapper's process has logged it."""


def error_of(failed: Failed) -> Exception:
    """Return what a failed call raises at its caller."""
    if failed.kind == "rejected":
        kind = NotFound if failed.status == NotFound.status else BadRequest
        return kind(failed.message, status=failed.status, code=failed.code)
    if failed.kind == "notserved":
        return NotServed(failed.message)
    if failed.kind == "timeout":
        return TimeoutError(failed.message)
    if failed.kind == "error":
        return DriverFailed(failed.message)
    return DeviceUnreachable(failed.message)
