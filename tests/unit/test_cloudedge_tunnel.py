"""Frames of the stream tunnel: golden bytes, round trips, bad input."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedPacket
from gateway.wire.cloudedge.tunnel import (
    MAX_MESSAGE,
    Connect,
    Frame,
    FrameType,
    decode_connect,
    decode_frame,
    encode_connect,
    encode_frame,
)


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        (Frame(1, FrameType.DATA, b"hello from pod\n"), b"\x01\x03hello from pod\n"),
        (Frame(1, FrameType.REMOVE), b"\x01\x04"),
        (Frame(300, FrameType.REMOVE), b"\xac\x02\x04"),
        (Frame(0, FrameType.LOGS), b"\x00\x00"),
        (Frame(2**64 - 1, FrameType.CLOSE), b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x05"),
    ],
)
def test_frames_have_kubeedges_bytes(frame: Frame, wire: bytes) -> None:
    assert encode_frame(frame) == wire
    assert decode_frame(wire) == frame


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\x01",
        b"\x80",
        b"\x01\x80",
        b"\x01\x07",
        b"\xff" * 11 + b"\x01",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\x03",
        b"\x01\x03" + bytes(MAX_MESSAGE),
    ],
)
def test_what_is_no_frame_is_refused(wire: bytes) -> None:
    with pytest.raises(MalformedPacket):
        decode_frame(wire)


def test_a_connect_has_gos_url_with_all_its_keys() -> None:
    connect = Connect(
        300, "POST", "/containerLogs/default/p1/c", "follow=true", {"Accept": ["a", "b"]}
    )
    assert json.loads(encode_connect(connect, FrameType.LOGS)) == {
        "MessID": 300,
        "url": {
            "Scheme": "http",
            "Opaque": "",
            "User": None,
            "Host": "127.0.0.1:10350",
            "Path": "/containerLogs/default/p1/c",
            "RawPath": "",
            "OmitHost": False,
            "ForceQuery": False,
            "RawQuery": "follow=true",
            "Fragment": "",
            "RawFragment": "",
        },
        "header": {"Accept": ["a", "b"]},
    }
    exec_ = json.loads(encode_connect(connect, FrameType.EXEC, "127.0.0.1:1"))
    assert (exec_["method"], exec_["url"]["Host"]) == ("POST", "127.0.0.1:1")
    assert decode_connect(encode_connect(connect, FrameType.EXEC)) == connect


def test_a_connect_of_a_go_cloud_is_read() -> None:
    text = (
        b'{"MessID":7,"url":{"Scheme":"https","Opaque":"","User":{},"Host":"10.0.0.9:1","Path":"/exec/a/b/c",'
        b'"RawPath":"","OmitHost":false,"ForceQuery":false,"RawQuery":"command=ls","Fragment":"",'
        b'"RawFragment":""},"header":{"Upgrade":["SPDY/3.1"],"X":null},"method":"POST"}\n'
    )
    assert decode_connect(text) == Connect(
        7, "POST", "/exec/a/b/c", "command=ls", {"Upgrade": ["SPDY/3.1"], "X": []}
    )
    nil = b'{"MessID":7,"url":{"Path":"/stats/summary"},"header":null}'
    assert decode_connect(nil) == Connect(7, "GET", "/stats/summary", "", {})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"MessID":-1,"url":{"Path":"/"},"header":{}}',
        b'{"MessID":1,"url":{"Path":""},"header":{}}',
        b'{"MessID":1,"url":{"Path":"x"},"header":{}}',
        b'{"MessID":1,"url":{"Path":5},"header":{}}',
        b'{"MessID":1,"url":{"Path":"/"},"header":{"a":"b"}}',
        b'{"MessID":1,"url":{"Path":"/\xff"},"header":{}}',
    ],
)
def test_an_odd_connect_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedPacket):
        decode_connect(text)


@given(st.integers(0, 2**64 - 1), st.sampled_from(list(FrameType)), st.binary(max_size=300))
def test_every_frame_survives(connection: int, kind: FrameType, data: bytes) -> None:
    frame = Frame(connection, kind, data)
    assert decode_frame(encode_frame(frame)) == frame


@given(st.binary(max_size=40))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    try:
        frame = decode_frame(data)
    except MalformedPacket:
        return
    assert decode_frame(encode_frame(frame)) == frame
