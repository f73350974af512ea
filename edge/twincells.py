"""Twins as rows of the edge's database."""

from __future__ import annotations

import msgspec

from gateway.wire.cloudedge.twins import Twin, TwinValue, TwinVersion, ValueMetadata

SELECT_TWINS = (
    "SELECT deviceid, name, expected, actual, expected_meta, actual_meta, expected_version,"
    " actual_version, optional, metadata FROM device_twin"
)
PUT_TWIN = (
    "INSERT INTO device_twin (deviceid, name, expected, actual, expected_meta, actual_meta,"
    " expected_version, actual_version, optional, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (deviceid, name) DO UPDATE SET expected = excluded.expected,"
    " actual = excluded.actual, expected_meta = excluded.expected_meta,"
    " actual_meta = excluded.actual_meta, expected_version = excluded.expected_version,"
    " actual_version = excluded.actual_version, optional = excluded.optional,"
    " metadata = excluded.metadata"
)

SELECT_BOUND = "SELECT deviceid, name, uid, desired FROM device_bound"
PUT_BOUND = "INSERT OR REPLACE INTO device_bound (deviceid, name, uid, desired) VALUES (?, ?, ?, ?)"
DROP_BOUND = "DELETE FROM device_bound WHERE deviceid = ? AND name = ?"


def cells_of(device: str, name: str, twin: Twin) -> tuple[object, ...]:
    """Return the row of a device's property, as `PUT_TWIN` takes it."""
    return (
        device,
        name,
        None if twin.expected is None else twin.expected.value,
        None if twin.actual is None else twin.actual.value,
        _text(twin.expected and twin.expected.metadata),
        _text(twin.actual and twin.actual.metadata),
        _text(twin.expected_version),
        _text(twin.actual_version),
        int(twin.optional is not False),
        _text(twin.metadata or {}),
    )


def _text(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


_version = msgspec.json.Decoder(TwinVersion)
_stamp = msgspec.json.Decoder(ValueMetadata)
_metadata = msgspec.json.Decoder(dict[str, str])


def _value(text: str | None, meta: str | None) -> TwinValue | None:
    if text is None:
        return None
    return TwinValue(value=text, metadata=_stamp.decode(meta) if meta else None)


def twin_of(
    expected: str | None,
    actual: str | None,
    expected_meta: str | None,
    actual_meta: str | None,
    expected_version: str | None,
    actual_version: str | None,
    optional: object,
    metadata: str,
) -> Twin:
    """Return the twin that a row of `SELECT_TWINS` is, after its device and property."""
    return Twin(
        expected=_value(expected, expected_meta),
        actual=_value(actual, actual_meta),
        expected_version=_version.decode(expected_version) if expected_version else None,
        actual_version=_version.decode(actual_version) if actual_version else None,
        optional=bool(optional),
        metadata=_metadata.decode(metadata),
    )
