"""OPC UA's types as plain Python, and back by a node's type. Used by `client` alone."""

from __future__ import annotations

import base64
import datetime
import uuid
from collections.abc import Callable

from asyncua import ua

from gateway.errors import Rejected
from gateway.wire.cloudedge.values import Typed

_VT = ua.VariantType
_WHOLE = {
    _VT.SByte: (-(2**7), 2**7 - 1),
    _VT.Byte: (0, 2**8 - 1),
    _VT.Int16: (-(2**15), 2**15 - 1),
    _VT.UInt16: (0, 2**16 - 1),
    _VT.Int32: (-(2**31), 2**31 - 1),
    _VT.UInt32: (0, 2**32 - 1),
    _VT.Int64: (-(2**63), 2**63 - 1),
    _VT.UInt64: (0, 2**64 - 1),
}
TYPES = {
    _VT.Boolean: "BOOLEAN",
    **dict.fromkeys(_WHOLE, "INT"),
    _VT.Float: "FLOAT",
    _VT.Double: "DOUBLE",
    _VT.ByteString: "BYTES",
}
"""Types of DeviceModels; what is not here is STRING."""


def plain(value: object) -> object:
    """Return a variant's content without the library's types."""
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, ua.LocalizedText):
        return value.Text or ""
    if isinstance(value, ua.QualifiedName):
        return value.Name
    if isinstance(value, ua.NodeId):
        return value.to_string()
    if isinstance(value, ua.StatusCode):
        return value.name
    if isinstance(value, uuid.UUID):
        return str(value)
    return value


def milliseconds(time: datetime.datetime | None) -> int:
    """Return a time in ms since the epoch, 0 for none or one that cannot be."""
    if time is None:
        return 0
    if time.tzinfo is None:
        time = time.replace(tzinfo=datetime.UTC)
    return max(0, int(time.timestamp() * 1_000))


def typed_for(kind: ua.VariantType, value: Typed) -> object:
    """Return a value as a node's type takes it. Errors: Rejected."""
    convert = _CONVERT.get(kind)
    if kind in _WHOLE:
        return _whole(kind, value)
    if convert is None:
        raise Rejected(f"nodes of type {kind.name} cannot be written")
    try:
        return convert(value)
    except (ValueError, TypeError, OverflowError):
        raise Rejected(f"{str(value)[:40]!r} is no {kind.name}") from None


def _whole(kind: ua.VariantType, value: Typed) -> int:
    low, high = _WHOLE[kind]
    try:
        number = float(value) if isinstance(value, float) else int(value)
    except ValueError:
        raise Rejected(f"{str(value)[:40]!r} is no {kind.name}") from None
    if number != int(number) or not low <= number <= high:
        raise Rejected(f"{value} is no {kind.name}")
    return int(number)


def _flag(value: Typed) -> bool:
    if isinstance(value, str):
        if value not in ("true", "false"):
            raise ValueError
        return value == "true"
    if value not in (0, 1):
        raise ValueError
    return bool(value)


def _time(value: Typed) -> datetime.datetime:
    time = datetime.datetime.fromisoformat(str(value))
    return time if time.tzinfo is None else time.astimezone(datetime.UTC).replace(tzinfo=None)


_CONVERT: dict[ua.VariantType, Callable[[Typed], object]] = {
    _VT.Boolean: _flag,
    _VT.Float: float,
    _VT.Double: float,
    _VT.String: str,
    _VT.LocalizedText: lambda value: ua.LocalizedText(str(value)),
    _VT.ByteString: lambda value: base64.b64decode(str(value), validate=True),
    _VT.DateTime: _time,
    _VT.Guid: lambda value: uuid.UUID(str(value)),
}
