"""Which addresses Thing Models may come from."""

from __future__ import annotations

import pytest

from gateway.ditto.wot_addresses import AddressRules, Allowance
from gateway.ditto.wot_cache import Cache, Kept
from gateway.errors import InvalidSetting

NOBODY = AddressRules()


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "2a00:1450::1"])
def test_public_addresses_may_be_asked(address: str) -> None:
    assert NOBODY.allow("models.acme.org", address, 443)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "nonsense",
        "",
    ],
)
def test_other_addresses_may_not(address: str) -> None:
    assert not NOBODY.allow("models.acme.org", address, 80)


@pytest.mark.parametrize(
    ("allowed", "host", "address", "port", "may"),
    [
        ("10.0.0.0/8", "x", "10.9.9.9", 80, True),
        ("10.0.0.0/8", "x", "11.0.0.1", 80, True),  # public anyway
        ("10.0.0.0/8", "x", "192.168.0.1", 80, False),
        ("10.0.0.0/8", "x", "::ffff:10.0.0.1", 80, True),
        ("127.0.0.1", "x", "127.0.0.1", 1, True),
        ("127.0.0.1:8000", "x", "127.0.0.1", 8000, True),
        ("127.0.0.1:8000", "x", "127.0.0.1", 8001, False),
        ("::1", "x", "::1", 9, True),
        ("[::1]:9", "x", "::1", 9, True),
        ("[::1]:9", "x", "::1", 8, False),
        ("[fd00::/8]:443", "x", "fd00::7", 443, True),
        ("models.plant.local", "models.plant.local", "10.0.0.1", 80, True),
        ("models.plant.local", "MODELS.plant.local.", "10.0.0.1", 80, True),
        ("models.plant.local", "evil.plant.local", "10.0.0.1", 80, False),
        ("models.plant.local:443", "models.plant.local", "10.0.0.1", 80, False),
    ],
)
def test_the_settings_can_allow_more(
    allowed: str, host: str, address: str, port: int, may: bool
) -> None:
    assert AddressRules.of((allowed,)).allow(host, address, port) is may


@pytest.mark.parametrize(
    "text", ["", "a b", "10.0.0.1/8", "host:0", "host:70000", "host:x", "a/b:1"]
)
def test_an_entry_that_means_nothing_stops_the_start(text: str) -> None:
    with pytest.raises(InvalidSetting, match="allowed_addresses"):
        Allowance.parse(text)


# --- the cache ---------------------------------------------------------------------------------


def test_the_least_recently_used_goes_when_there_are_too_many_or_too_much() -> None:
    cache: Cache[str] = Cache(entries=3, size=100)
    for name in "abc":
        cache.put(name, Kept(name, 30, 1.0))
    assert cache.get("a") is not None
    cache.put("d", Kept("d", 30, 1.0))
    assert cache.get("b") is None
    cache.put("e", Kept("e", 60, 1.0))
    assert [name for name in "abcde" if cache.get(name)] == ["d", "e"]
    assert (len(cache), cache.size) == (2, 90)


def test_what_is_larger_than_all_there_is_room_for_is_not_kept() -> None:
    cache: Cache[str] = Cache(entries=3, size=100)
    cache.put("a", Kept("a", 10, 1.0))
    cache.put("a", Kept("a", 101, 1.0))
    assert cache.get("a") is None
    assert cache.size == 0
