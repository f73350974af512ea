"""Frames of the stream tunnel (logs, exec, attach, metrics) between CloudStream and EdgeStream.

One frame is one WebSocket message: two unsigned LEB128 numbers, connection and type, then data. The bytes
travel in TEXT frames though they are no text. Source: KubeEdge `stream` package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from gateway.errors import MalformedPacket

TUNNEL_PATH = "/v1/kubeedge/connect"
NODE_NAME, NODE_ADDRESS = "SessionHostNameOverride", "SessionInternalIP"
"""Headers of the tunnel's upgrade request."""
PING = b"ping you"
"""Payload of the edge's WebSocket pings, one every 5 s."""
MAX_MESSAGE = 1024 * 1024
"""Bytes of one frame."""
KUBELET = "127.0.0.1:10350"
"""Host of every URL in a connect frame."""
FRAME_BYTES = "twinspan-frame-bytes"
"""Header of our answer to the upgrade: how many bytes of data the edge may put into one frame."""
SMALL_FRAME, LARGE_FRAME = 256, 16_384
"""Bytes of data in a frame of an edge, towards KubeEdge's cloud and ours."""
_MAX_NUMBER_BYTES = 10


class FrameType(IntEnum):
    """What a frame is for; LOGS, EXEC, METRICS and ATTACH open a connection, cloud to edge."""

    LOGS = 0
    EXEC = 1
    METRICS = 2
    DATA = 3
    REMOVE = 4
    CLOSE = 5
    ATTACH = 6


_ANSWERED = "the kubelet answered "


def refusal_reason(status: int, said: str) -> str:
    """Return the reason of a REMOVE after an answer that is none of success."""
    return f"{_ANSWERED}{status}: {said}"


def read_refusal(reason: str) -> tuple[int, str] | None:
    """Return status and words of a kubelet that refused, None for another reason."""
    status, colon, said = reason.removeprefix(_ANSWERED).partition(": ")
    is_one = reason.startswith(_ANSWERED) and colon and len(status) == 3 and status.isdecimal()
    return (int(status), said) if is_one and 400 <= int(status) < 600 else None


OPENING = frozenset({FrameType.LOGS, FrameType.EXEC, FrameType.METRICS, FrameType.ATTACH})
_WITH_METHOD = frozenset({FrameType.EXEC, FrameType.ATTACH})


_PATHS = {
    "containerLogs": FrameType.LOGS,
    "exec": FrameType.EXEC,
    "attach": FrameType.ATTACH,
    "portForward": FrameType.EXEC,
    "stats": FrameType.METRICS,
    "metrics": FrameType.METRICS,
    "pods": FrameType.LOGS,
    "runningpods": FrameType.LOGS,
    "healthz": FrameType.LOGS,
    "configz": FrameType.LOGS,
    "logs": FrameType.LOGS,
}
"""Lists and health go the way of logs, as they are; figures go line by line."""
_ALONE = frozenset({"metrics", "pods", "runningpods", "healthz", "configz", "logs"})


def kind_of(path: str) -> FrameType | None:
    """Return what a kubelet's path (unescaped) is asked for with; None for one that is not carried."""
    _, *parts = path.split("/")
    if not path.startswith("/") or not {"", ".", ".."}.isdisjoint(parts) or not path.isprintable():
        return None
    kind = _PATHS.get(parts[0])
    return kind if len(parts) > 1 or parts[0] in _ALONE else None


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `data`: bytes for DATA, a `Connect` for the opening types, a reason or b"" for REMOVE."""

    connection: int
    type: FrameType
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Connect:
    """The request that a connection is for; the edge sends it to its own kubelet and nowhere else.

    Shape:  `path` unescaped, `query` as in the URL, without `?`.
    """

    connection: int
    method: str
    path: str
    query: str
    headers: Mapping[str, Sequence[str]]


def encode_frame(frame: Frame) -> bytes:
    """Write a frame."""
    return _number(frame.connection) + _number(frame.type) + frame.data


def decode_frame(data: bytes) -> Frame:
    """Read a frame. Errors: MalformedPacket, also for unknown types and frames over `MAX_MESSAGE`."""
    if len(data) > MAX_MESSAGE:
        raise MalformedPacket(f"tunnel frame: at most {MAX_MESSAGE} bytes, got {len(data)}")
    connection, begin = _read_number(data, 0)
    kind, begin = _read_number(data, begin)
    if kind not in FrameType._value2member_map_:
        raise MalformedPacket(f"tunnel frame: unknown type {kind}")
    return Frame(connection, FrameType(kind), bytes(data[begin:]))


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_number(data: bytes, begin: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_NUMBER_BYTES):
        if begin + index >= len(data):
            raise MalformedPacket("tunnel frame: ends within a number")
        byte = data[begin + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, begin + index + 1
    raise MalformedPacket("tunnel frame: a number above 64 bits")


class _Url(Struct, frozen=True, rename="pascal"):
    """Go's `url.URL`, all of its keys."""

    scheme: str = "http"
    opaque: str = ""
    user: Any = None
    host: str = KUBELET
    path: Annotated[str, Meta(max_length=8_192)] = ""
    raw_path: Annotated[str, Meta(max_length=16_384)] = ""
    omit_host: bool = False
    force_query: bool = False
    raw_query: Annotated[str, Meta(max_length=65_536)] = ""
    fragment: str = ""
    raw_fragment: str = ""


_Values = Annotated[list[Annotated[str, Meta(max_length=16_384)]], Meta(max_length=100)]


class _Connect(Struct, frozen=True, rename={"connection": "MessID"}, omit_defaults=True):
    connection: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    url: _Url
    header: Annotated[dict[str, _Values | None], Meta(max_length=200)] | None
    method: Annotated[str, Meta(max_length=32)] = ""


_CONNECT = msgspec.json.Decoder(_Connect)


def encode_connect(connect: Connect, kind: FrameType, address: str = KUBELET) -> bytes:
    """Write the data of an opening frame; `address` is the kubelet's `host:port` in the URL."""
    url = _Url(host=address, path=connect.path, raw_query=connect.query)
    headers: dict[str, list[str] | None] = {k: list(v) for k, v in connect.headers.items()}
    method = connect.method if kind in _WITH_METHOD else ""
    return msgspec.json.encode(_Connect(connect.connection, url, headers, method))


def decode_connect(data: bytes) -> Connect:
    """Read the data of an opening frame; scheme and host of its URL are not looked at.

    Errors: MalformedPacket.
    """
    try:
        body = _CONNECT.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedPacket(f"tunnel connect: {error}") from error
    if not body.url.path.startswith("/"):
        raise MalformedPacket(f"tunnel connect: expected a path, got {body.url.path[:200]!r}")
    headers = {name: values or [] for name, values in (body.header or {}).items()}
    return Connect(
        body.connection, body.method or "GET", body.url.path, body.url.raw_query, headers
    )
