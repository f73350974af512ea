"""What mappers see: what is kept of it, what makes room, what is cut from strangers' texts."""

from __future__ import annotations

from typing import Any

import pytest

from edge import discovery
from edge.discovery import DiscoveryBook
from edge.mappers.family import Discovered, DiscoveredProperty
from gateway.errors import BadRequest
from gateway.observe.metrics import Metrics
from gateway.wire.cloudedge.discoveries import SeenDevice, SeenProperty, clean, key_of, shown


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(clock: Clock) -> DiscoveryBook:
    return DiscoveryBook(Metrics(), clock)


def a_device(address: str = "A4:C1:38:00:00:01", **more: Any) -> Discovered:
    return Discovered(protocol="bluetooth", address=address, **more)


def test_a_device_that_is_seen_again_is_one_device_with_its_first_and_last_time(
    book: DiscoveryBook, clock: Clock
) -> None:
    first = clock.now
    book.take(a_device(signal=-70))
    clock.now += 5_000
    book.take(a_device(signal=-60, name="Kitchen"))
    (seen,) = book.list()
    assert (seen.first, seen.last) == (first, clock.now)
    assert (seen.name, seen.signal) == ("Kitchen", -60)


def test_a_lost_device_is_forgotten_and_a_lost_stranger_changes_nothing(
    book: DiscoveryBook,
) -> None:
    book.take(a_device())
    book.lost("bluetooth", "FF:FF:FF:FF:FF:FF")
    assert len(book.list()) == 1
    book.lost("bluetooth", "a4:c1:38:00:00:01")
    assert book.list() == []


def test_a_device_that_is_not_seen_for_a_day_is_forgotten(
    book: DiscoveryBook, clock: Clock
) -> None:
    book.take(a_device())
    clock.now += 86_399_000
    assert len(book.list()) == 1
    clock.now += 1_000
    assert book.list() == []


def test_passers_by_make_room_for_newcomers_and_steady_devices_stay(
    book: DiscoveryBook, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "MAX_DEVICES", 3)
    book.take(a_device("00:00:00:00:00:01"))
    clock.now += 60_000
    book.take(a_device("00:00:00:00:00:01"))
    for number in range(2, 100):
        clock.now += 1
        book.take(a_device(f"00:00:00:00:00:{number:02x}"))
    assert [each.address[-2:] for each in book.list()] == ["01", "62", "63"]


def test_a_book_of_steady_devices_refuses_newcomers_and_counts_them(
    book: DiscoveryBook, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "MAX_DEVICES", 1)
    book.take(a_device("00:00:00:00:00:01"))
    clock.now += 60_000
    book.take(a_device("00:00:00:00:00:01"))
    book.take(a_device("00:00:00:00:00:02"))
    assert [each.address[-2:] for each in book.list()] == ["01"]
    assert book.refused == {"full": 1}


def test_what_is_told_first_is_what_can_be_served_and_was_seen_longest(
    book: DiscoveryBook, clock: Clock
) -> None:
    book.take(a_device("00:00:00:00:00:01"))
    clock.now += 1
    book.take(a_device("00:00:00:00:00:02"))
    clock.now += 1
    book.take(a_device("00:00:00:00:00:03", properties=(DiscoveredProperty("t", "INT"),)))
    assert [each.address[-2:] for each in book.best(2)] == ["03", "01"]


@pytest.mark.parametrize(
    ("found", "case"),
    [
        (Discovered("bluetooth", "a b"), "space"),
        (Discovered("bluetooth", ""), "empty"),
        (Discovered("bluetooth", "x" * 300), "long"),
        (Discovered("blue\ntooth", "x"), "protocol"),
        (Discovered("b", "x", config={"a": "x" * 5_000}), "config"),
        (Discovered("b", "x", config={"a": object()}), "odd config"),
        (Discovered("b", "x", signal="strong"), "wrong type"),  # type: ignore[arg-type]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_of_no_use_is_counted_and_never_raises(
    book: DiscoveryBook, found: Discovered, case: str
) -> None:
    book.take(found)
    assert book.list() == [], case
    assert book.refused == {"malformed": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Lamp", "Lamp"),
        ("  La\tmp\r\n2 ", "La mp 2"),
        ("\x1b[31mred\x07", "[31mred"),
        ("gnp\u202efdp.exe", "gnpfdp.exe"),
        ("a\u200bb\ufeffc\u2028d", "abc d"),
        ("x" * 10_000, "x" * 127 + "…"),
        ("\ud800", ""),
        ("Küche 🛋", "Küche 🛋"),
    ],
    ids=["plain", "spaces", "escape", "override", "hidden", "long", "surrogate", "emoji"],
)
def test_a_strangers_text_is_one_short_line_with_nothing_hidden(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_names_of_objects_are_told_apart_and_hardware_addresses_are_readable() -> None:
    assert key_of("bluetooth", "A4:C1:38:00:00:01") == "bluetooth-a4c138000001"
    assert key_of("zigbee", "00:15:8d:00:01:02:03:04") == "zigbee-00158d0001020304"
    keys = {key_of("modbus", address) for address in ("h:502/1", "h:502.1", "H:502/1", "!", "~")}
    assert len(keys) == 5
    assert all(len(key) <= 120 and key.strip("-") == key for key in keys)


def test_properties_that_no_model_can_have_are_left_out() -> None:
    found = clean(
        msgspec_seen(
            DiscoveredProperty("temp", "float", minimum="-40", maximum="warm", unit="°C\n"),
            DiscoveredProperty("temp", "INT"),
            DiscoveredProperty("a/b", "INT"),
            DiscoveredProperty("video", "STREAM"),
            DiscoveredProperty("x", "INT", access="Everything"),
        )
    )
    assert [(p.name, p.type, p.access, p.minimum, p.maximum, p.unit) for p in found.properties] == [
        ("temp", "FLOAT", "ReadOnly", "-40", "", "°C"),
        ("x", "INT", "ReadOnly", "", "", ""),
    ]


def test_a_device_of_far_too_many_bytes_is_refused() -> None:
    many = [DiscoveredProperty(f"p{n}", "INT", visitor={"a": "x" * 2_000}) for n in range(50)]
    with pytest.raises(BadRequest, match="at most 32768"):
        clean(msgspec_seen(*many))


def msgspec_seen(*properties: DiscoveredProperty) -> SeenDevice:
    import msgspec

    return msgspec.convert(a_device(properties=properties), SeenDevice, from_attributes=True)


def test_a_bound_is_a_number_to_its_end() -> None:
    prop = SeenProperty("p", "INT", minimum=64 * "1" + "; rm", maximum=64 * "1")
    found = clean(SeenDevice("modbus", "unit-1", properties=(prop,))).properties[0]
    assert (found.minimum, found.maximum) == ("", 64 * "1")
