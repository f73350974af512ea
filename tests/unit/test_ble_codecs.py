"""Bytes of characteristics as values, and back."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.mappers.ble.codecs import Codec, named_codec
from edge.mappers.ble.configuration import read_source
from edge.mappers.ble.converter import Converter, words_of
from edge.mappers.ble.sig import CHARACTERISTICS, codec_by_name, codec_of
from edge.mappers.ble.uuids import address_of, number_of, sig, uuid_of
from edge.mappers.ble.values import decoded
from edge.mappers.configdata import ConfigData
from edge.mappers.driver import Quality
from gateway.errors import BadRequest, Rejected
from gateway.wire.cloudedge.devices import DeviceProperty
from gateway.wire.cloudedge.values import PropertyType, ValueRule, parse_text

NAMES = [
    *(f"{sign}int{bits}{order}" for sign in "us" for bits in (8, 16, 24, 32, 48, 64) for order in ("", "be")),
    "float16",
    "float32be",
    "float64",
    "bool",
    "utf8",
    "bytes",
    "hex",
    "sfloat",
    "float",
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "data", "value"),
    [
        (0x2A6E, "5908", 21.37),
        (0x2A6E, "0cfe", -5.0),
        (0x2A6F, "c611", 45.5),
        (0x2A6D, "02760f00", 101325.0),
        (0x2A19, "64", 100),
        (0x2A76, "0b", 11),
        (0x2A77, "e803", 100.0),
        (0x2A6C, "f0d8ff", -100.0),
        (0x2AFB, "a08601", 1000.0),
        (0x2B8C, "9001", 400),
        (0x2A29, "41636d6500", "Acme"),
        (0x2A1C, "006e0100ff", 36.6),
        (0x2A1C, "01d4030000"[:8] + "ff", 36.67),
        (0x2BD6, "0cb0", 12e-5),
    ],
    ids=lambda value: f"{value:04X}" if isinstance(value, int) and value > 255 else None,
)
def test_standard_characteristics_are_decoded(number: int, data: str, value: object) -> None:
    assert codec_of(number).decode(bytes.fromhex(data)) == value


@pytest.mark.parametrize(
    ("number", "data"),
    [
        (0x2A6E, "0080"),
        (0x2A6F, "ffff"),
        (0x2AFB, "ffffff"),
        (0x2B8C, "ffff"),
        (0x2BD6, "ff07"),
        (0x2A1C, "00ffff7f00"),
    ],
    ids=lambda value: f"{value:04X}" if isinstance(value, int) else None,
)
def test_a_value_that_is_not_known_is_no_value(number: int, data: str) -> None:
    with pytest.raises(BadRequest, match="does not know"):
        codec_of(number).decode(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("number", "data"),
    [(0x2A6E, "59"), (0x2A6E, "590800"), (0x2A19, ""), (0x2A19, "65"), (0x2A29, "ff")],
    ids=["short", "long", "empty", "101 percent", "no UTF-8"],
)
def test_bytes_that_cannot_be_the_value_say_so(number: int, data: str) -> None:
    with pytest.raises(BadRequest):
        codec_of(number).decode(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        ("0048", {"rate": 72}),
        ("012c01", {"rate": 300}),
        ("0648", {"rate": 72, "contact": True}),
        ("0448", {"rate": 72, "contact": False}),
        ("08482a00", {"rate": 72, "energy": 42}),
        ("184801000004cd03", {"rate": 72, "energy": 1, "rr": 950.2}),
    ],
    ids=["8 bits", "16 bits", "contact", "no contact", "energy", "intervals"],
)
def test_a_heart_rate_has_the_fields_that_its_flags_say(
    data: str, fields: dict[str, object]
) -> None:
    found = {}
    for name in ("rate", "contact", "energy", "rr"):
        try:
            found[name] = codec_of(0x2A37, name).decode(bytes.fromhex(data))
        except BadRequest:
            continue
    assert found == fields


@pytest.mark.parametrize("data", ["00", "0148", "0848", "104801", "004800"])
def test_a_heart_rate_whose_flags_lie_is_no_value(data: str) -> None:
    with pytest.raises(BadRequest):
        codec_of(0x2A37).decode(bytes.fromhex(data))


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_no_bytes_bring_a_decoder_down(data: bytes) -> None:
    codecs = [standard.codec for standard in CHARACTERISTICS.values()]
    codecs += [codec for each in CHARACTERISTICS.values() for _name, codec in each.fields]
    for codec in [*codecs, *map(named_codec, NAMES)]:
        for kind in PropertyType:
            if kind is PropertyType.STREAM:
                continue
            found = decoded(ValueRule(kind), codec, data, 5)
            assert found.at == 5
            if found.quality is Quality.GOOD:
                parse_text(kind, found.text)  # what is good is of the model's type
            else:
                assert found.why


@settings(deadline=None)
@given(st.integers(-(2**15), 2**15 - 1), st.sampled_from(["sint16", "sint16be", "int16le"]))
def test_a_whole_number_comes_back(value: int, name: str) -> None:
    codec = named_codec(name)
    assert codec.encode is not None
    assert codec.decode(codec.encode(value)) == value


def test_scale_and_offset_are_undone_when_written() -> None:
    codec = named_codec("uint16be", scale=0.1, offset=-40)
    assert codec.decode(b"\x02\x8a") == 25.0
    assert codec.encode is not None
    assert codec.encode(25.0) == b"\x02\x8a"
    with pytest.raises(BadRequest, match="does not fit"):
        codec.encode(-41)


def test_a_float_that_is_no_number_is_bad() -> None:
    for raw in (float("nan"), float("inf")):
        found = decoded(
            ValueRule(PropertyType.FLOAT), named_codec("float32"), struct.pack("<f", raw), 1
        )
        assert found.quality is Quality.BAD
        assert "finite" in found.why


def test_a_fraction_becomes_the_nearest_int_and_bytes_hex_or_base64() -> None:
    rules = {kind: ValueRule(kind) for kind in PropertyType}
    temperature = codec_of(0x2A6E)
    assert decoded(rules[PropertyType.INT], temperature, b"\x59\x08", 0).text == "21"
    raw = named_codec("bytes")
    assert decoded(rules[PropertyType.STRING], raw, b"\x00\xff", 0).text == "00ff"
    assert decoded(rules[PropertyType.BYTES], raw, b"\x00\xff", 0).text == "AP8="


@pytest.mark.parametrize("word", ["uint12", "int", "float8", "nonsense", "", "uint16xe"])
def test_an_unknown_decoder_is_refused(word: str) -> None:
    with pytest.raises(Rejected, match="decoder"):
        named_codec(word)


def test_standard_decoders_have_names_too() -> None:
    assert codec_by_name("heart-rate", "rate") is not None
    assert codec_by_name("uvIndex") is codec_of(0x2A76)
    assert codec_by_name("uint8") is None
    with pytest.raises(Rejected, match="rate, contact, energy, rr"):
        codec_of(0x2A37, "pulse")


@pytest.mark.parametrize(
    ("number", "data", "value"),
    [
        (0x2AA3, "03", 3),
        (0x2AE2, "01", True),
        (0x2AE9, "8c0a", 2700),
        (0x2AEE, "e803", 10.0),
        (0x2AF2, "e80300", 1000),
        (0x2B04, "c8", 100.0),
        (0x2B05, "e90300", 100.1),
        (0x2B0D, "d6", -21.0),
        (0x2B18, "8039", 230.0),
        (0x2B1B, "7d00", 0.125),
        (0x2BE0, "803e00", 250.0),
        (0x2BE4, "37", 55),
        (0x2A8E, "b400", 1.8),
        (0x2A98, "983a", 75.0),
    ],
    ids=lambda each: f"{each:04x}" if isinstance(each, int) and each > 0x2000 else None,
)
def test_more_characteristics_are_read(number: int, data: str, value: object) -> None:
    assert codec_of(number).decode(bytes.fromhex(data)) == value


@pytest.mark.parametrize(
    ("number", "data"),
    [(0x2AA3, "00"), (0x2AEE, "ffff"), (0x2AF2, "ffffff"), (0x2B04, "ff"), (0x2B05, "feffff"),
     (0x2B0D, "7f"), (0x2B18, "ffff"), (0x2BE4, "ff"), (0x2A9D, "00ffff"), (0x2A5F, "00ff07ff07")],
    ids=[f"{at}" for at in range(10)],
)  # fmt: skip
def test_what_a_device_does_not_know_is_no_number(number: int, data: str) -> None:
    with pytest.raises(BadRequest, match="not know"):
        codec_of(number).decode(bytes.fromhex(data))


TIME = "e8070b170c0000"
RECORDS = [
    (0x2A35, "00" "7800" "5000" "5d00", {"systolic": 120, "diastolic": 80, "mean": 93}),
    (0x2A35, "07" "a0f0" "6bf0" "7cf0" + TIME + "4800",
     {"systolic": 120.01, "diastolic": 80.256603, "pulse": 72}),
    (0x2A9D, "00983a", {"weight": 75.0}),
    (0x2A9D, "0f" "2641" + TIME + "02" "e700", {"weight": 75.65, "user": 2, "bmi": 23.1}),
    (0x2A18, "02" "0100" + TIME + "5ab0" "11", {"glucose": 4.9956}),
    (0x2A18, "07" "0100" + TIME + "0000" "37d0" "11", {"glucose": 55.0}),
    (0x2A53, "00" "0003" "5a", {"speed": 3.0, "cadence": 90}),
    (0x2A53, "03" "0003" "5a" "7800" "10270000", {"stride": 1.2, "distance": 1000.0}),
    (0x2A5B, "03" "10270000" "0004" "6400" "0004", {"wheelRevolutions": 10000, "crankRevolutions": 100}),
    (0x2A5B, "02" "6400" "0004", {"crankRevolutions": 100}),
    (0x2A63, "3500" "fa00" "64" "0100" "10270000" "0004" "6400" "0004",
     {"power": 250, "wheelRevolutions": 10000, "crankRevolutions": 100}),
    (0x2A63, "0000" "f6ff", {"power": -10}),
    (0x2A5E, "00" "6200" "3c00", {"saturation": 98, "pulse": 60}),
]  # fmt: skip


@pytest.mark.parametrize(("number", "data", "values"), RECORDS, ids=[str(n) for n in range(13)])
def test_records_are_read_by_their_flags(number: int, data: str, values: dict[str, float]) -> None:
    for field, value in values.items():
        found = codec_of(number, field).decode(bytes.fromhex(data))
        assert found == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    ("number", "field", "data", "why"),
    [
        (0x2A5B, "wheelRevolutions", "0264000004", "does not have its wheelRevolutions"),
        (0x2A35, "pulse", "00780050005d00", "does not have its pulse"),
        (0x2A35, "pulse", "04780050005d00", "at least 9 bytes, got 7"),
        (0x2A63, "power", "", "at least 4 bytes, got 0"),
    ],
    ids=["absent", "not sent", "cut", "empty"],
)
def test_a_part_that_is_not_there_is_said_so(number: int, field: str, data: str, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        codec_of(number, field).decode(bytes.fromhex(data))


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_no_bytes_bring_a_record_down(data: bytes) -> None:
    for number in (0x2A35, 0x2A9D, 0x2A18, 0x2A53, 0x2A5B, 0x2A63, 0x2A5F):
        with contextlib.suppress(BadRequest):
            codec_of(number).decode(data)


def test_what_is_written_is_what_was_wanted_or_refused() -> None:
    big = 2**53 + 1
    assert named_codec("uint64").encode(big) == big.to_bytes(8, "little")  # type: ignore[misc]
    assert named_codec("sint64be").encode(-big) == (-big).to_bytes(8, "big", signed=True)  # type: ignore[misc]
    for codec, value in (
        (named_codec("uint16", 0.01), 1e308),
        (named_codec("float64", 1e-10), 1e308),
        (codec_of(0x2A6E), -327.68),
        (codec_of(0x2A19), 101),
        (codec_of(0x2A06), 3),
    ):
        assert codec.encode is not None
        with pytest.raises(BadRequest):
            codec.encode(value)


# --- KubeEdge's own forms -------------------------------------------------------------------------


def _converter(**keys: object) -> Codec:
    return Converter.read(ConfigData("dataConverter", keys)).codec()  # type: ignore[arg-type]


def test_kubeedges_converter_takes_bytes_in_the_order_of_its_indexes() -> None:
    data = bytes.fromhex("a00f00")
    assert _converter(startIndex=0, endIndex=1).decode(data) == 0xA00F
    assert _converter(startIndex=1, endIndex=0).decode(data) == 0x0FA0
    assert _converter(startIndex=1, endIndex=0, shiftRight=2).decode(data) == 0x0FA0 >> 2
    assert _converter(startIndex=1, shiftLeft=4).decode(data) == 0xF0


def test_kubeedges_converter_does_its_operations_in_order() -> None:
    operations = [
        {"operationType": "Multiply", "operationValue": 0.03125},
        {"operationType": "Add", "operationValue": 1},
        {"operationType": "Divide", "operationValue": 2},
        {"operationType": "SUBTRACT", "operationValue": 0.5},
    ]
    codec = _converter(startIndex=1, endIndex=0, shiftRight=2, orderOfOperations=operations)
    assert codec.decode(bytes.fromhex("a00b")) == ((0x0BA0 >> 2) * 0.03125 + 1) / 2 - 0.5


def test_a_converter_says_what_is_wrong_with_it() -> None:
    with pytest.raises(BadRequest, match="at least 3 bytes"):
        _converter(startIndex=2, endIndex=0).decode(b"\x01")
    with pytest.raises(Rejected, match="divided by 0"):
        _converter(orderOfOperations=[{"operationType": "Divide", "operationValue": 0}])
    with pytest.raises(Rejected, match="add, subtract"):
        _converter(orderOfOperations=[{"operationType": "Power", "operationValue": 2}])


def test_words_to_write_are_lists_of_bytes_or_base64() -> None:
    config = ConfigData("visitor", {"dataWrite": {"ON": [1, 255], "OFF": "AAE="}})
    assert words_of(config) == {"ON": b"\x01\xff", "OFF": b"\x00\x01"}
    for wrong in ([256], [-1], ["x"], "%", 5, [0] * 600):
        with pytest.raises(Rejected):
            words_of(ConfigData("visitor", {"dataWrite": {"ON": wrong}}))  # type: ignore[dict-item]


# --- UUIDs and addresses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["2A6E", "0x2a6e", "00002a6e", "00002A6E-0000-1000-8000-00805F9B34FB"]
)
def test_a_uuid_has_one_form(text: str) -> None:
    assert uuid_of(text) == sig(0x2A6E)
    assert number_of(uuid_of(text)) == 0x2A6E


def test_what_is_no_uuid_or_address_is_refused() -> None:
    for text in ("", "2A6", "2A6EG", "zz" * 16):
        with pytest.raises(Rejected):
            uuid_of(text)
    assert address_of(" c0-de-00-00-00-01 ") == "C0:DE:00:00:00:01"
    for text in ("", "C0:DE", "C0:DE:00:00:00:0G", "C0:DE:00:00:00:01:02"):
        with pytest.raises(Rejected):
            address_of(text)


def test_a_characteristic_without_a_decoder_is_told_as_its_bytes() -> None:
    source = read_source(DeviceProperty("p", 0, visitor={"characteristicUUID": "7A01"}))
    assert source.codec is not None
    assert source.codec.decode(b"\x01\x02") == b"\x01\x02"
