"""Registers become values of the model's type and back."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.mappers.configdata import ConfigData
from edge.mappers.modbus.addresses import SerialLine, TcpLine, unit_of
from edge.mappers.modbus.family import units_of
from edge.mappers.modbus.registers import (
    Coils,
    Mask,
    Place,
    Registers,
    Table,
    decode,
    encode,
    place_of,
    plan,
)
from gateway.errors import BadRequest, GatewayError, NotBuilt, Rejected
from gateway.wire.cloudedge.values import PropertyType, ValueRule, parse_text


def place(kind: str = "INT", **visitor: Any) -> tuple[Place, ValueRule]:
    rule = ValueRule(PropertyType(kind))
    visitor.setdefault("register", "HoldingRegister")
    visitor.setdefault("offset", 0)
    return place_of(ConfigData("p", visitor), rule), rule


FLOAT = [0x41AC, 0x0000]  # 21.5


@pytest.mark.parametrize(
    ("kind", "visitor", "raw", "text"),
    [
        ("INT", {}, [0xFFFE], "-2"),
        ("INT", {"dataType": "uint16"}, [0xFFFE], "65534"),
        ("INT", {"limit": 2}, [0xFFFF, 0xFFFE], "-2"),
        ("INT", {"limit": "2", "isRegisterSwap": "true"}, [0xFFFE, 0xFFFF], "-2"),
        ("INT", {"limit": 4}, [0, 0, 1, 0], "65536"),
        ("INT", {"dataType": "uint16", "isSwap": True}, [0x0100], "1"),
        ("FLOAT", {"limit": 2}, FLOAT, "21.5"),
        ("FLOAT", {"dataType": "float32", "isRegisterSwap": True}, FLOAT[::-1], "21.5"),
        ("DOUBLE", {"dataType": "int16", "scale": 0.1}, [215], "21.5"),
        ("FLOAT", {"dataType": "uint16", "scale": "0.01"}, [7], "0.07"),
        ("FLOAT", {}, list(struct.unpack(">2H", struct.pack(">f", 0.1))), "0.1"),
        (
            "DOUBLE",
            {"dataType": "float64"},
            list(struct.unpack(">4H", struct.pack(">d", 0.1))),
            "0.1",
        ),
        ("STRING", {"limit": 3}, [0x4142, 0x4300, 0x4444], "ABC"),
        ("STRING", {"limit": 2, "isSwap": True}, [0x4241, 0x2043], "ABC"),
        ("BYTES", {"limit": 2}, [0x0102, 0xFF00], "AQL/AA=="),
        ("INT", {"dataType": "bcd", "limit": 2}, [0x1234, 0x5678], "12345678"),
        ("BOOLEAN", {}, [2], "true"),
        ("BOOLEAN", {"bit": 3}, [8], "true"),
        ("BOOLEAN", {"bit": 3}, [7], "false"),
        ("BOOLEAN", {"register": "CoilRegister"}, [1], "true"),
        ("INT", {"register": "di", "limit": 3}, [1, 0, 1], "5"),
        ("STRING", {"register": "DiscreteInputRegister", "limit": 3}, [1, 0, 1], "101"),
        ("INT", {"dataType": "bits"}, [0x0003], "3"),
    ],
)
def test_registers_are_read_as_the_visitor_says(
    kind: str, visitor: dict[str, Any], raw: list[int], text: str
) -> None:
    where, rule = place(kind, **visitor)
    assert where.count == len(raw)
    assert decode(where, rule, raw) == text


@pytest.mark.parametrize(
    ("kind", "visitor", "raw", "said"),
    [
        ("FLOAT", {}, [0x7FC0, 0], "finite"),
        ("FLOAT", {}, [0x7F80, 0], "finite"),
        ("INT", {"dataType": "float32"}, FLOAT, "whole number"),
        ("INT", {"dataType": "uint64"}, [0xFFFF] * 4, "64-bit"),
        ("INT", {"dataType": "bcd"}, [0x12AB], "decimals"),
        ("STRING", {}, [0xFFFE], "UTF-8"),
        ("INT", {"max": 100}, [101], "above"),
        ("INT", {"min": "0"}, [0xFFFF], "below"),
    ],
)
def test_registers_that_are_no_value_of_the_model_are_refused(
    kind: str, visitor: dict[str, Any], raw: list[int], said: str
) -> None:
    where, rule = place(kind, **visitor)
    with pytest.raises(BadRequest, match=said):
        decode(where, rule, raw)


@pytest.mark.parametrize(
    ("visitor", "said"),
    [
        ({"register": "Coil2"}, "p.register: expected one of"),
        ({"register": None}, "p.register is missing"),
        ({"offset": -1}, "p.offset"),
        ({"offset": 70_000}, "p.offset"),
        ({"offset": 65_535, "limit": 2}, "beyond 65535"),
        ({"limit": 126}, "p.limit"),
        ({"limit": 3, "dataType": "float32"}, "has 2 registers"),
        ({"scale": "nan"}, "p.scale"),
        ({"scale": 0}, "not 0"),
        ({"isSwap": "maybe"}, "p.isSwap"),
        ({"bit": 16}, "p.bit"),
        ({"offset": [1]}, "p.offset"),
    ],
)
def test_a_bad_visitor_is_named(visitor: dict[str, Any], said: str) -> None:
    with pytest.raises(Rejected, match=said):
        place("INT", **visitor)


@given(
    value=st.integers(-(2**31), 2**31 - 1),
    swaps_bytes=st.booleans(),
    swaps_words=st.booleans(),
)
def test_what_is_written_reads_back(value: int, swaps_bytes: bool, swaps_words: bool) -> None:
    where, rule = place("INT", limit=2, isSwap=swaps_bytes, isRegisterSwap=swaps_words)
    written = encode(where, rule, value)
    assert isinstance(written, Registers)
    assert decode(where, rule, written.values) == str(value)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float_of_32_bits_survives(value: float) -> None:
    where, rule = place("FLOAT")
    written = encode(where, rule, value)
    assert isinstance(written, Registers)
    assert float(decode(where, rule, written.values)) == pytest.approx(value, rel=1e-7)
    again = encode(where, rule, parse_text(rule.type, decode(where, rule, written.values)))
    assert again == written


def test_each_kind_is_written_in_its_form() -> None:
    assert encode(*place("BOOLEAN", register="coil", offset=5), True) == Coils(5, (True,))
    assert encode(*place("STRING", register="coil", limit=3), "101") == Coils(
        0, (True, False, True)
    )
    assert encode(*place("BOOLEAN", bit=3), True) == Mask(0, 0xFFF7, 8)
    assert encode(*place("BOOLEAN", bit=3, isSwap=True), True) == Mask(0, 0xF7FF, 0x800)
    assert encode(*place("FLOAT", dataType="int16", scale=0.1), 21.5) == Registers(0, (215,))
    assert encode(*place("INT", dataType="bcd"), 1234) == Registers(0, (0x1234,))
    assert encode(*place("STRING", limit=2), "AB") == Registers(0, (0x4142, 0))
    assert encode(*place("BYTES", limit=1), "AQI=") == Registers(0, (0x0102,))


@pytest.mark.parametrize(
    ("kind", "visitor", "value"),
    [
        ("INT", {"register": "InputRegister"}, 1),
        ("BOOLEAN", {"register": "DiscreteInput"}, True),
        ("INT", {}, 40_000),
        ("INT", {"dataType": "uint16"}, -1),
        ("INT", {"dataType": "bcd"}, 10_000),
        ("INT", {"max": 5}, 6),
        ("STRING", {"limit": 1}, "ABC"),
        ("STRING", {"register": "coil", "limit": 3}, "12"),
        ("FLOAT", {}, 1e39),
    ],
)
def test_a_value_that_does_not_fit_is_refused(
    kind: str, visitor: dict[str, Any], value: float | str
) -> None:
    with pytest.raises(GatewayError) as refused:
        encode(*place(kind, **visitor), value)
    assert refused.value.status == 400


def test_neighbours_share_a_request_up_to_a_gap_and_the_limit() -> None:
    def at(offset: int, count: int = 1, **more: Any) -> Place:
        return Place(Table.HOLDING, offset, count, "uint16", **more)

    blocks = plan([("a", at(0)), ("c", at(20)), ("b", at(9)), ("d", at(9, 4))], gap=8)
    assert [(b.offset, b.count, set(b.names)) for b in blocks] == [(0, 21, {"a", "b", "c", "d"})]
    assert len(plan([("a", at(0)), ("b", at(9))], gap=7)) == 2
    assert len(plan([("a", at(0)), ("b", at(1, is_alone=True))], gap=8)) == 2
    many = plan([(str(n), at(n)) for n in range(300)], gap=8)
    assert [block.count for block in many] == [125, 125, 50]
    coils = [(str(n), Place(Table.COIL, n, 1, "bits")) for n in range(2_100)]
    assert [block.count for block in plan(coils, gap=8)] == [2_000, 100]
    mixed = plan([("a", at(0)), ("b", Place(Table.INPUT, 1, 1, "uint16"))], gap=8)
    assert len(mixed) == 2


def test_a_line_is_told_from_configdata_of_either_version() -> None:
    def line(**config: Any) -> Any:
        return unit_of(ConfigData("configData", config)).line

    assert line(ip="plc", port="1502") == TcpLine("plc", 1502)
    assert line(communicateMode="TCP", tcp={"ip": "plc", "port": 1}) == TcpLine("plc", 1)
    serial = SerialLine("/dev/ttyS0", 19_200, 8, "E", 1)
    assert (
        line(communicateMode="RTU", serialPort="/dev/ttyS0", baudRate=19200, parity="even")
        == serial
    )
    assert line(com={"serialPort": "/dev/ttyS0", "baudRate": "19200", "parity": "E"}) == serial
    assert line(communicateMode="RTUoverTCP", ip="plc") == TcpLine("plc", 502, is_rtu=True)
    assert unit_of(ConfigData("c", {"ip": "plc", "unitId": 7, "timeout": 0.2})).unit == 7
    assert str(unit_of(ConfigData("c", {"ip": "::1", "slaveID": "3"}))) == "[::1]:502/3"


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({}, Rejected),
        ({"ip": "plc", "slaveID": 300}, Rejected),
        ({"ip": "plc", "port": 0}, Rejected),
        ({"ip": "plc", "timeout": 60}, Rejected),
        ({"communicateMode": "RTU", "serialPort": "/etc/shadow"}, Rejected),
        ({"communicateMode": "carrier pigeon"}, Rejected),
        ({"communicateMode": "TLS", "ip": "plc"}, NotBuilt),
    ],
)
def test_a_line_that_cannot_be_is_refused(config: dict[str, Any], kind: type[GatewayError]) -> None:
    with pytest.raises(kind):
        unit_of(ConfigData("configData", config))


def test_units_are_written_as_ranges() -> None:
    assert units_of("1-3, 9,2") == [1, 2, 3, 9]
    for wrong in ("", "x", "3-1", "0-256", "-1"):
        with pytest.raises(BadRequest):
            units_of(wrong)
