"""Kubernetes protobuf bodies."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, UnsupportedMediaType
from gateway.kube.typedata import protobuf_table
from gateway.wire.kube.protobuf import MAGIC, MessageTable, decode

TABLE: MessageTable = {
    "core/v1.Thing": {
        "1": ["metadata", "meta/v1.ObjectMeta"],
        "2": ["data", "%y"],
        "3": ["labels", "%s"],
        "4": ["replicas", "i", 1],
        "5": ["count", "i"],
        "6": ["names", "*s"],
        "7": ["size", "Quantity"],
        "8": ["port", "IntOrString"],
        "9": ["at", "MicroTime"],
        "10": ["ratio", "d"],
        "11": ["on", "b"],
        "12": ["raw", "RawExtension"],
        "13": ["extra", "%L:s"],
        "14": ["", "core/v1.Source"],
        "15": ["self", "core/v1.Thing", 1],
    },
    "core/v1.Source": {"1": ["path", "s"]},
    "meta/v1.ObjectMeta": {"1": ["name", "s"], "8": ["creationTimestamp", "Time"]},
}


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def piece(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def body(item: bytes, version: bytes = b"v1", kind: bytes = b"Thing") -> bytes:
    return MAGIC + piece(1, piece(1, version) + piece(2, kind)) + piece(2, item)


def test_every_kind_of_value_is_read() -> None:
    item = b"".join(
        (
            piece(1, piece(1, b"x") + piece(8, number(1, 1_795_377_600))),
            piece(2, piece(1, b"k") + piece(2, b"\x00\x01")),
            piece(3, piece(1, b"a") + piece(2, b"")),
            number(4, 0),
            number(5, -3),
            piece(6, b"p") + piece(6, b"q"),
            piece(7, piece(1, b"10Mi")),
            piece(8, number(1, 1) + piece(3, b"http")),
            piece(9, number(1, 1_795_377_600) + number(2, 5_000)),
            varint(10 << 3 | 1) + struct.pack("<d", 0.5),
            number(11, 1),
            piece(12, piece(1, b'{"a":1}')),
            piece(13, piece(1, b"e") + piece(2, piece(1, b"v") + piece(1, b"w"))),
            piece(14, piece(1, b"/p")),
        )
    )
    assert decode(body(item), TABLE) == {
        "apiVersion": "v1",
        "kind": "Thing",
        "metadata": {"name": "x", "creationTimestamp": "2026-11-22T20:00:00Z"},
        "data": {"k": "AAE="},
        "labels": {"a": ""},
        "replicas": 0,
        "count": -3,
        "names": ["p", "q"],
        "size": "10Mi",
        "port": "http",
        "at": "2026-11-22T20:00:00.000005Z",
        "ratio": 0.5,
        "on": True,
        "raw": {"a": 1},
        "extra": {"e": ["v", "w"]},
        "path": "/p",
    }


def test_zero_values_that_are_no_pointers_are_absent() -> None:
    item = number(5, 0) + number(11, 0) + piece(1, piece(1, b"x") + piece(8, b""))
    assert decode(body(item), TABLE) == {
        "apiVersion": "v1",
        "kind": "Thing",
        "metadata": {"name": "x"},
    }


def test_the_source_of_a_volume_is_part_of_the_volume() -> None:
    source = piece(1, piece(1, b"/"))
    spec = piece(1, piece(1, b"host-root") + piece(2, source))
    assert decode(body(piece(2, spec), kind=b"Pod"), protobuf_table()) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "spec": {"volumes": [{"name": "host-root", "hostPath": {"path": "/"}}]},
    }


def test_unknown_fields_are_passed_over() -> None:
    assert "metadata" not in decode(body(number(99, 7) + piece(98, b"zz")), TABLE)


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        MAGIC + b"\xff" * 20,
        MAGIC + piece(1, piece(1, b"v1") + piece(2, b"Thing")) + varint(2 << 3 | 2) + b"\x7fab",
        body(varint(1 << 3 | 3)),
        body(number(1, 5)),
        body(piece(5, b"x")),
        body(piece(1, piece(1, b"\xff\xfe"))),
        body(piece(12, piece(1, b"{"))),
        body(varint(10 << 3 | 5) + b"abcd"),
    ],
)
def test_broken_bytes_are_a_bad_request(data: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(data, TABLE)


def test_endless_nesting_is_refused() -> None:
    item = b""
    for _ in range(100):
        item = piece(15, item)
    with pytest.raises(BadRequest, match="levels"):
        decode(body(item), TABLE)


def test_a_kind_without_a_table_is_no_known_media_type() -> None:
    with pytest.raises(UnsupportedMediaType, match="apps/v1 Deployment"):
        decode(body(b"", b"apps/v1", b"Deployment"), TABLE)


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for whole in (MAGIC + data, body(data)):
        try:
            decode(whole, TABLE)
        except (BadRequest, UnsupportedMediaType):
            continue
