"""Advertisements as values: BTHome, iBeacon, Eddystone, what makers put in; who is in the air."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.mappers.ble import beacons, bthome
from edge.mappers.ble.advertised import AdvertReader
from edge.mappers.ble.configuration import Advertised, Kind, Match, read_source
from edge.mappers.ble.discovery import Offers
from edge.mappers.ble.heard import AddressKind, Air, Heard, clean_name, kind_of
from edge.mappers.ble.propose import proposed
from edge.mappers.ble.uuids import sig
from edge.mappers.driver import Quality
from edge.mappers.family import Discovered
from gateway.errors import BadRequest, Rejected
from gateway.wire.cloudedge.devices import DeviceProperty
from gateway.wire.cloudedge.values import PropertyType, ValueRule

BTHOME, EDDYSTONE = sig(0xFCD2), sig(0xFEAA)
KEY = bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")
SECRET = bytes.fromhex("41a47266c95f730011223378237214")
SECRET_MAC = "54:48:E6:8F:80:A5"
IBEACON = bytes.fromhex("0215f7826da64fa24e988024bc5b71e0893e01020304c5")


def heard(address: str = "C0:00:00:00:00:01", **more: Any) -> Heard:
    return Heard(address, kind_of(address, "random"), object(), **more)


def bthome_heard(data: str) -> Heard:
    return heard(service_data={BTHOME: bytes.fromhex(data)})


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "values"),
    [
        ("40" "02ca09" "03bf13", {"temperature": 25.06, "humidity": 50.55}),
        ("40" "0161" "0c020c", {"battery": 97, "voltage": 3.074}),
        ("40" "4511 01", {"temperature": 27.3}),
        ("40" "58ea", {"temperature": -7.7}),
        ("40" "2101" "1a00", {"motion": True, "door": False}),
        ("40" "3a01" "3a04", {"button": "press", "button_2": "long_press"}),
        ("40" "3c0203", {"dimmer": "right 3"}),
        ("40" "5306 48656c6c6f21", {"text": "Hello!"}),
        ("40" "5402 00ff", {"raw": b"\x00\xff"}),
        ("40" "04138a01" "0513 8a14", {"pressure": 1008.83, "illuminance": 13460.67}),
        ("40" "4d12138a14", {"energy": 344593.17}),
        ("40" "5c02fbffff", {"power": -12.78}),
        ("40" "02ca09" "ee0102", {"temperature": 25.06}),
        ("40", {}),
    ],
    ids=range(14),
)  # fmt: skip
def test_bthome_objects_are_read(data: str, values: dict[str, object]) -> None:
    assert bthome.values(bytes.fromhex(data)) == values


OLD, OLD_SECRET = sig(0x181C), sig(0x181E)


@pytest.mark.parametrize(
    ("data", "values"),
    [
        ("2302ca09" "0303bf13", {"temperature": 25.06, "humidity": 50.55}),
        ("0201" "5d" "020f01" "21", {}),
        ("02015d" "021001" "033d0960", {"battery": 93, "power_on": True, "count": 0x6009}),
        ("45020000c841", {"temperature": 0.25}),
        ("02ee01" "02015d", {"battery": 93}),
        ("86010203040506" "2302ca09", {"temperature": 25.06}),
        ("6674616263" "64" "65", {"text": "abcde"}),
    ],
    ids=["two", "cut", "flags", "real", "unknown", "address", "text"],
)  # fmt: skip
def test_version_1_of_bthome_is_read(data: str, values: dict[str, object]) -> None:
    packet = bthome.Packet.read(bytes.fromhex(data), bthome.OLD)
    if not values:
        with pytest.raises(BadRequest, match="before its length"):
            list(packet.values("", None))
        return
    assert {name: value for name, _kind, value in packet.values("", None)} == values


def test_version_1_is_opened_with_its_key_only() -> None:
    counter = bytes.fromhex("00112233")
    nonce = bytes.fromhex(SECRET_MAC.replace(":", "")) + b"\x1e\x18" + counter
    closed = AESCCM(KEY, tag_length=4).encrypt(nonce, bytes.fromhex("2302ca090303bf13"), b"\x11")
    data = closed[:-4] + counter + closed[-4:]
    made, _counts = reader(key=KEY, t=(PropertyType.DOUBLE, {"bthome": "temperature"}))
    made.take(Heard(SECRET_MAC, AddressKind.STATIC, None, service_data={OLD_SECRET: data}), 5)
    assert made.read(["t"], 5)["t"].text == "25.06"
    packet = bthome.Packet.read(data, bthome.OLD_SECRET)
    with pytest.raises(BadRequest, match="needs its bindKey"):
        packet.opened(SECRET_MAC, None)
    with pytest.raises(BadRequest, match="not this device's"):
        packet.opened("54:48:E6:8F:80:A6", KEY)
    with pytest.raises(BadRequest, match="too short"):
        bthome.Packet.read(b"1234567", bthome.OLD_SECRET)


def test_version_1_is_proposed_and_what_only_looks_like_it_is_not() -> None:
    found = proposed(heard(service_data={OLD: bytes.fromhex("2302ca090303bf13")}))
    assert found.model == "bluetooth-bthome-temperature-humidity"
    secret = proposed(heard(service_data={OLD_SECRET: bytes(16)}))
    assert secret.facts["encrypted"] == "needs configData.bindKey"
    other = proposed(heard(service_data={OLD: b"\x00user"}, name="Scale"))
    assert other.facts["format"] == "ble"


def test_a_packet_may_say_its_own_address() -> None:
    plain = bthome.values(bytes.fromhex("42a5808fe6485402ca09"))
    assert plain == {"temperature": 25.06}
    nonce = bytes.fromhex(SECRET_MAC.replace(":", "")) + b"\xd2\xfc\x43" + bytes(4)
    closed = AESCCM(KEY, tag_length=4).encrypt(nonce, bytes.fromhex("02ca09"), None)
    data = b"\x43" + bytes.fromhex("a5808fe64854") + closed[:-4] + bytes(4) + closed[-4:]
    assert bthome.values(data, "11:22:33:44:55:66", KEY) == {"temperature": 25.06}
    with pytest.raises(BadRequest, match="in its address"):
        bthome.values(b"\x42\x01")


def test_a_device_that_speaks_only_when_something_happens_may_be_silent() -> None:
    made, _counts = reader(stale_after=60, w=(PropertyType.BOOLEAN, {"bthome": "window"}))
    made.take(bthome_heard("442d01"), 1_000)
    assert made.read(["w"], 3_600_000)["w"].quality is Quality.GOOD
    assert made.read(["w"], 100_000_000)["w"].quality is Quality.UNCERTAIN
    made.take(bthome_heard("402d00"), 100_000_000)
    assert made.read(["w"], 100_070_000)["w"].quality is Quality.UNCERTAIN


def test_a_frame_of_eddystone_says_nothing_of_the_others_fields() -> None:
    made, counts = reader(
        n=(PropertyType.STRING, {"eddystone": "namespace"}),
        v=(PropertyType.DOUBLE, {"eddystone": "voltage"}),
    )
    uid = bytes.fromhex("00e700112233445566778899aabbccddeeff0000")
    for data in (uid, b"\x20\x01" + bytes(12), b"\x40" + bytes(8)):  # secret TLM, a kind to come
        made.take(heard(service_data={EDDYSTONE: data}), 1)
        found = made.read(["n", "v"], 1)
    assert found["n"].text == "00112233445566778899"
    assert (found["v"].quality, counts["malformed"]) == (Quality.BAD, 1)


@pytest.mark.parametrize("data", ["", "20", "400201", "405305aa", "4053", "41a472"])
def test_a_broken_bthome_packet_says_so(data: str) -> None:
    with pytest.raises(BadRequest):
        bthome.values(bytes.fromhex(data))


def test_an_encrypted_packet_is_opened_with_its_key_only() -> None:
    assert bthome.values(SECRET, SECRET_MAC, KEY) == {"temperature": 25.06, "humidity": 50.55}
    with pytest.raises(BadRequest, match="needs its bindKey"):
        bthome.values(SECRET, SECRET_MAC)
    with pytest.raises(BadRequest, match="not this device's"):
        bthome.values(SECRET, "54:48:E6:8F:80:A6", KEY)
    with pytest.raises(BadRequest, match="not encrypted"):
        bthome.values(bytes.fromhex("4002ca09"), SECRET_MAC, KEY)


def test_an_ibeacon_is_read() -> None:
    assert beacons.ibeacon(IBEACON) == {
        "uuid": "f7826da6-4fa2-4e98-8024-bc5b71e0893e",
        "major": 258,
        "minor": 772,
        "power": -59,
    }


@pytest.mark.parametrize(
    ("data", "values"),
    [
        ("00e700112233445566778899aabbccddeeff0000",
         {"namespace": "00112233445566778899", "instance": "aabbccddeeff", "power": -25}),
        ("10e702" + b"example".hex() + "00" + b"iot".hex(),
         {"url": "http://example.com/iot", "power": -25}),
        ("20000bb8158000000064000003e8",
         {"voltage": 3.0, "temperature": 21.5, "packets": 100, "uptime": 100.0}),
        ("200000008000000000640000000a", {"packets": 100, "uptime": 1.0}),
        ("30e70102030405060708", {"eid": "0102030405060708", "power": -25}),
    ],
    ids=["uid", "url", "tlm", "tlm without sensors", "eid"],
)  # fmt: skip
def test_eddystone_frames_are_read(data: str, values: dict[str, object]) -> None:
    assert beacons.eddystone(bytes.fromhex(data)) == values


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_bring_a_format_down(data: bytes) -> None:
    for read in (bthome.values, beacons.ibeacon, beacons.eddystone):
        with contextlib.suppress(BadRequest):
            read(data)
    one = heard(manufacturer={0x4C: data}, service_data={BTHOME: data, EDDYSTONE: data}, name="x")
    assert proposed(one).address == one.address


# --- readers --------------------------------------------------------------------------------------


def reader(
    stale_after: float = 60, key: bytes | None = None, **visitors: Any
) -> tuple[AdvertReader, Counter[str]]:
    sources, rules = {}, {}
    counts: Counter[str] = Counter()
    for name, (kind, advertisement) in visitors.items():
        prop = DeviceProperty(name, 0, visitor={"advertisement": advertisement})
        source = read_source(prop, Kind.PASSIVE)
        assert isinstance(source, Advertised)
        sources[name] = source
        rules[name] = ValueRule(kind)
    return AdvertReader(
        sources, rules, key, stale_after, lambda name, by: counts.update({name: by})
    ), counts


def test_a_value_keeps_the_time_of_the_last_advertisement_that_said_it() -> None:
    made, _counts = reader(t=(PropertyType.DOUBLE, {"bthome": "temperature"}))
    first, other = bthome_heard("4002ca09"), bthome_heard("400161")
    assert made.take(first, 1_000)
    assert not made.take(first, 5_000)  # nothing new, but still there
    assert made.read(["t"], 5_000)["t"].at == 5_000
    made.take(other, 9_000)  # another packet, without a temperature
    assert made.read(["t"], 9_000)["t"].at == 5_000


def test_an_old_value_is_uncertain_and_says_how_old() -> None:
    made, _counts = reader(stale_after=10, t=(PropertyType.DOUBLE, {"bthome": "temperature"}))
    made.take(bthome_heard("4002ca09"), 1_000)
    assert made.read(["t"], 11_000)["t"].quality is Quality.GOOD
    old = made.read(["t"], 31_000)["t"]
    assert (old.quality, old.text, old.why) == (Quality.UNCERTAIN, "25.06", "not heard for 30 s")


def test_what_lies_is_bad_and_counted() -> None:
    made, counts = reader(
        t=(PropertyType.DOUBLE, {"bthome": "temperature"}),
        f=(PropertyType.FLOAT, {"manufacturerData": 1, "decoder": "float32"}),
        m=(PropertyType.BOOLEAN, {"manufacturerData": "0x0001", "start": 1, "length": 1}),
    )
    made.take(heard(service_data={BTHOME: b"\x40\x02"}, manufacturer={1: b"\x00\x00\xc0\x7f"}), 5)
    found = made.read(["t", "f", "m"], 5)
    assert {each.quality for each in found.values()} == {Quality.BAD}
    assert all(each.why for each in found.values())
    assert counts["malformed"] == 2


def test_a_flood_of_advertisements_waits_undecoded_and_bounded() -> None:
    made, counts = reader(c=(PropertyType.INT, {"bthome": "count"}))
    for number in range(10_000):
        made.take(bthome_heard(f"403d{number.to_bytes(2, 'little').hex()}"), number)
    assert len(made._pending) == 16
    assert made.read(["c"], 10_000)["c"].text == "9999"
    assert counts == {"taken": 1, "coalesced": 9_999}


def test_an_encrypted_packet_that_is_replayed_is_bad() -> None:
    made, _counts = reader(key=KEY, t=(PropertyType.DOUBLE, {"bthome": "temperature"}))
    made._counter = 0x33221101
    made.take(Heard(SECRET_MAC, AddressKind.STATIC, None, service_data={BTHOME: SECRET}), 5)
    found = made.read(["t"], 5)["t"]
    assert (found.quality, "replaying" in found.why) == (Quality.BAD, True)
    made._counter = 0x33221100
    made.take(
        Heard(SECRET_MAC, AddressKind.STATIC, None, name="b", service_data={BTHOME: SECRET}), 6
    )
    assert made.read(["t"], 6)["t"].text == "25.06"


@pytest.mark.parametrize(
    "advertisement",
    ["noise", {"bthome": "warmth"}, {"ibeacon": "url"}, {}, {"rssi": True, "bthome": "temperature"},
     {"manufacturerData": 70_000}, {"serviceData": "x"}, {"serviceData": "FCD2", "decoder": "x"}, 5],
    ids=range(9),
)  # fmt: skip
def test_a_visitor_that_means_nothing_is_refused(advertisement: Any) -> None:
    with pytest.raises(Rejected):
        read_source(DeviceProperty("p", 0, visitor={"advertisement": advertisement}))


# --- the air --------------------------------------------------------------------------------------


def test_a_flood_of_random_addresses_drives_out_its_own_kind_only() -> None:
    air = Air(100)
    air.take(heard("C0:00:00:00:00:01"), 1)
    air.listen("40:00:00:00:00:02", lambda _heard, _now: None)
    air.take(heard("40:00:00:00:00:02"), 2)
    for number in range(10_000):
        air.take(
            heard(f"4F:00:00:{number >> 16:02X}:{number >> 8 & 255:02X}:{number & 255:02X}"),
            3 + number,
        )
    assert len(air) == 100
    assert air.get("C0:00:00:00:00:01") is not None  # lasting
    assert air.get("40:00:00:00:00:02") is not None  # somebody's Device
    assert air.dropped == 9_902


def test_a_listener_hears_its_address_or_all() -> None:
    air = Air(10)
    one: list[str] = []
    every: list[str] = []
    number = air.listen("C0:00:00:00:00:01", lambda each, _now: one.append(each.address))
    air.listen("", lambda each, _now: every.append(each.address))
    air.take(heard("C0:00:00:00:00:01"), 1)
    air.take(heard("C0:00:00:00:00:02"), 2)
    air.unlisten(number)
    air.take(heard("C0:00:00:00:00:01"), 3)
    assert one == ["C0:00:00:00:00:01"]
    assert len(every) == 3


def test_names_are_short_and_can_be_shown() -> None:
    assert clean_name("Lamp\x1b[31m\n" + "x" * 10_000) == ("Lamp[31m" + "x" * 56)
    assert clean_name("\u202eevil") == "evil"
    assert clean_name(None) == ""


def test_an_address_tells_how_long_it_lives() -> None:
    assert kind_of("00:11:22:33:44:55", "public") is AddressKind.PUBLIC
    assert kind_of("C0:11:22:33:44:55", "random") is AddressKind.STATIC
    assert kind_of("4F:11:22:33:44:55", "random") is AddressKind.PRIVATE
    assert kind_of("0F:11:22:33:44:55", "random") is AddressKind.PRIVATE


def test_a_filter_needs_all_of_its_parts() -> None:
    one = heard(name="Thermo 1", services=frozenset({sig(0x181A)}), manufacturer={7: b""})
    assert Match(name="Thermo*").fits(one)
    assert Match(name="Thermo*", service=sig(0x181A), manufacturer=7).fits(one)
    assert not Match(name="Thermo*", manufacturer=8).fits(one)
    assert not Match(address="C0:00:00:00:00:02").fits(one)


# --- offers ---------------------------------------------------------------------------------------


class Told:
    def __init__(self, most: int = 10, names: tuple[str, ...] = ()) -> None:
        self.found: list[Discovered] = []
        self.gone: list[str] = []
        self.offers = Offers(most, names, 300.0, self.found.append, self.gone.append)


def test_a_device_is_told_once_again_when_it_says_something_new_and_when_it_has_gone() -> None:
    told, air = Told(), Air(10)
    air.take(bthome_heard("4002ca09"), 0)
    told.offers.look(0, air)
    air.take(bthome_heard("4002ca09"), 1_000)
    told.offers.look(1_000, air)
    assert len(told.found) == 1
    air.take(bthome_heard("4002ca0903bf13"), 2_000)
    told.offers.look(2_000, air)
    assert [each.name for each in told.found[-1].properties] == ["temperature", "humidity", "rssi"]
    told.offers.look(303_000, air)
    assert told.gone == ["C0:00:00:00:00:01"]
    assert len(told.offers) == 0


def test_private_addresses_are_offered_when_they_stay_and_say_who_they_are() -> None:
    told, air = Told(), Air(10)
    for now in (0, 5_000, 11_000):
        air.take(heard("4F:00:00:00:00:01"), now)
        air.take(heard("4F:00:00:00:00:02", name="Watch"), now)
        told.offers.look(now, air)
        if now == 5_000:
            assert told.found == []
    assert [each.name for each in told.found] == ["Watch"]
    assert "note" in told.found[0].facts


def test_a_device_that_others_drove_out_of_the_air_makes_room_among_the_offers() -> None:
    told, air = Told(most=5), Air(5)
    for number in range(60):
        air.take(heard(f"C0:00:00:00:00:{number:02X}"), number)
        told.offers.look(number, air)
    assert len(told.offers) == len(air) == 5
    assert len(told.found) == 60
    assert len(told.gone) == 55


def test_a_device_that_two_adapters_hear_is_there_while_one_does() -> None:
    told, first, second = Told(), Air(5), Air(5)
    first.take(heard("C0:00:00:00:00:01"), 0)
    second.take(heard("C0:00:00:00:00:01"), 250_000)
    told.offers.look(250_000, first, second)
    told.offers.look(301_000, first, second)
    assert (len(first), told.gone) == (0, [])
    told.offers.look(600_000, first, second)
    assert told.gone == ["C0:00:00:00:00:01"]


def test_offers_are_bounded_and_may_be_limited_to_names() -> None:
    told, air = Told(most=3), Air(100)
    for number in range(20):
        air.take(heard(f"C0:00:00:00:00:{number:02X}"), 0)
    told.offers.look(0, air)
    assert len(told.found) == 3
    named, air = Told(names=("Thermo*",)), Air(100)
    air.take(heard("C0:00:00:00:00:01", name="Lamp"), 0)
    air.take(heard("C0:00:00:00:00:02", name="Thermo 2"), 0)
    named.offers.look(0, air)
    assert [each.name for each in named.found] == ["Thermo 2"]


@pytest.mark.parametrize(
    ("more", "model", "names", "passive"),
    [
        ({"service_data": {BTHOME: bytes.fromhex("40000702ca092101")}},
         "bluetooth-bthome-temperature-motion", ["temperature", "motion", "rssi"], True),
        ({"manufacturer": {0x4C: IBEACON}},
         "bluetooth-ibeacon", ["uuid", "major", "minor", "power", "rssi"], True),
        ({"services": frozenset({sig(0x181A), sig(0x180F)}), "name": "T"},
         "bluetooth-battery-environmental-sensing",
         ["battery", "temperature", "humidity", "pressure", "rssi"], False),
        ({"manufacturer": {0x0499: b"\x05"}}, "bluetooth-advertiser", ["maker0499", "rssi"], True),
        ({"name": "Lamp"}, "bluetooth-ble", ["rssi"], False),
    ],
    ids=["bthome", "ibeacon", "services", "maker", "name alone"],
)  # fmt: skip
def test_a_model_is_proposed(
    more: dict[str, Any], model: str, names: list[str], passive: bool
) -> None:
    found = proposed(heard(**more))
    assert (found.model, [each.name for each in found.properties]) == (model, names)
    assert (found.config.get("kind") == "passive") is passive


def test_what_is_proposed_can_be_served() -> None:
    """Every visitor that discovery offers is one that a Device may have."""
    for one in (
        heard(service_data={BTHOME: bytes.fromhex("40000702ca0921013a015302ffff")}),
        heard(service_data={EDDYSTONE: b"\x00"}),
        heard(manufacturer={0x4C: IBEACON}),
        heard(services=frozenset({sig(0x180D), sig(0x181A), sig(0x1809)})),
        heard(manufacturer={1: b""}, service_data={sig(0x1234): b""}),
    ):
        for each in proposed(one).properties:
            read_source(DeviceProperty(each.name, 0, visitor=each.visitor))


def test_an_encrypting_device_says_that_it_needs_a_key() -> None:
    assert "bindKey" in proposed(heard(service_data={BTHOME: SECRET})).facts["encrypted"]
