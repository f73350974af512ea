"""Rules of the Hono core that need no loop: addresses, time to live, quotas, links, search, paths."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import BadRequest, Forbidden, NotFound, Unauthenticated
from gateway.hono.adapters.http_messages import Target, parse_path
from gateway.hono.commands import check_response_status
from gateway.hono.credentials import split_username
from gateway.hono.last_gateways import LastGateways
from gateway.hono.limits import allowance, period_start
from gateway.hono.routes import Ttl, check_payload, resolve_address, scalar_defaults
from gateway.hono.search import parse_search
from gateway.hono.subscriptions import Subscription, Subscriptions, choose
from gateway.model.members import parse_instant
from gateway.model.message import EMPTY_NOTIFICATION, Adapter, DeviceCommand, Principal
from gateway.model.ports import Done
from gateway.model.registry import PeriodMode, Quota

SENDER = Principal("acme", "gw", "gw")


@pytest.mark.parametrize(
    ("sender", "tenant", "device", "target"),
    [
        (SENDER, None, None, ("acme", "gw", None)),
        (SENDER, None, "gw", ("acme", "gw", None)),
        (SENDER, "acme", "gw", ("acme", "gw", None)),
        (SENDER, None, "d1", ("acme", "d1", "gw")),
        (SENDER, "acme", "d1", ("acme", "d1", "gw")),
        (None, "acme", "d1", ("acme", "d1", None)),
        (SENDER, "other", "d1", Forbidden),
        (SENDER, "acme", None, BadRequest),
        (None, None, "d1", BadRequest),
        (None, "acme", None, BadRequest),
        (None, None, None, BadRequest),
    ],
)
def test_an_address_names_the_target(
    sender: Principal | None, tenant: str | None, device: str | None, target: Any
) -> None:
    if isinstance(target, tuple):
        assert resolve_address(sender, tenant, device) == target
    else:
        with pytest.raises(target):
            resolve_address(sender, tenant, device)


@pytest.mark.parametrize(
    ("ttl", "wished", "effective"),
    [
        (Ttl(None, -1), None, None),
        (Ttl(None, -1), 5, 5),
        (Ttl(7, -1), None, 7),
        (Ttl(7, -1), 9, 9),
        (Ttl(None, 6), None, 6),
        (Ttl(7, 6), None, 6),
        (Ttl(7, 6), 3, 3),
        (Ttl(7, 0), 3, 0),
    ],
)
def test_the_limit_caps_and_replaces_the_time_to_live(
    ttl: Ttl, wished: float | None, effective: float | None
) -> None:
    assert ttl.effective(wished) == effective


def test_defaults_that_are_standard_fields_do_not_become_properties() -> None:
    defaults: Any = {
        "ttl": 5,
        "content-type": "x",
        "to": "y",
        "importance": "high",
        "n": 1,
        "o": {},
    }
    assert scalar_defaults(defaults) == {"importance": "high", "n": 1}


@pytest.mark.parametrize(
    ("payload", "content_type", "is_good"),
    [
        (b"x", None, True),
        (b"x", "text/plain", True),
        (b"", EMPTY_NOTIFICATION, True),
        (b"", "text/plain", True),
        (b"", None, False),
        (b"x", EMPTY_NOTIFICATION, False),
    ],
)
def test_payload_and_content_type_must_agree(
    payload: bytes, content_type: str | None, is_good: bool
) -> None:
    if is_good:
        check_payload(payload, content_type)
    else:
        with pytest.raises(BadRequest):
            check_payload(payload, content_type)


@pytest.mark.parametrize("status", [199, 300, 399, 600, 0, -200])
def test_a_response_status_outside_the_classes_is_refused(status: int) -> None:
    with pytest.raises(BadRequest):
        check_response_status(status)


@pytest.mark.parametrize("status", [200, 299, 400, 599])
def test_a_response_status_inside_the_classes_is_taken(status: int) -> None:
    assert check_response_status(status) == status


@pytest.mark.parametrize(
    ("username", "password", "parts"),
    [
        ("s1@acme", b"pw", ("s1", "acme", b"pw")),
        ("s1@acme@x", b"pw", ("s1", "acme@x", b"pw")),
        ("czFAYWNtZTpwOnc=", b"", ("s1", "acme", b"p:w")),
        ("s1@acme", b"", ("s1", "acme", b"")),
        ("s1", b"pw", None),
        ("@acme", b"pw", None),
        ("s1@", b"pw", None),
        ("", b"", None),
        ("s1@acme", b"x" * 1_025, None),
        ("s" * 1_025 + "@acme", b"x", None),
    ],
)
def test_a_user_name_holds_auth_id_and_tenant(username: str, password: bytes, parts: Any) -> None:
    if parts is None:
        with pytest.raises(Unauthenticated):
            split_username(username, password)
    else:
        assert split_username(username, password) == parts


def at(text: str) -> int:
    return parse_instant(text, "test")


@pytest.mark.parametrize(
    ("mode", "now", "start"),
    [
        (None, "2026-06-01T00:00:00Z", "2026-01-15T00:00:00Z"),
        (PeriodMode.DAYS, "2026-01-16T00:00:00Z", "2026-01-15T00:00:00Z"),
        (PeriodMode.DAYS, "2026-01-25T00:00:00Z", "2026-01-25T00:00:00Z"),
        (PeriodMode.DAYS, "2026-01-24T23:59:59Z", "2026-01-15T00:00:00Z"),
        (PeriodMode.MONTHLY, "2026-01-31T00:00:00Z", "2026-01-15T00:00:00Z"),
        (PeriodMode.MONTHLY, "2026-02-03T00:00:00Z", "2026-02-01T00:00:00Z"),
    ],
)
def test_an_accounting_period_begins_where_its_mode_says(
    mode: PeriodMode | None, now: str, start: str
) -> None:
    quota = Quota(at("2026-01-15T00:00:00Z"), 310, mode, 10)
    assert period_start(quota, at(now)) == at(start)


def test_the_first_month_is_prorated() -> None:
    quota = Quota(at("2026-01-15T00:00:00Z"), 310, PeriodMode.MONTHLY)
    assert allowance(quota, at("2026-01-20T00:00:00Z")) == 170
    assert allowance(quota, at("2026-02-20T00:00:00Z")) == 310


# --- links -----------------------------------------------------------------------------------------


class Link:
    def deliver(self, command: DeviceCommand, done: Done) -> None:
        raise AssertionError("nobody delivers here")


def a_link(
    device: str, gateway: str | None = None, *, announce: bool = True, for_its_devices: bool = True
) -> Subscription:
    return Subscription("t", device, Link(), Adapter.MQTT, gateway, announce, for_its_devices)


def the_choice(
    *links: Subscription, via: tuple[str, ...] = (), last: str | None = None
) -> Subscription | None:
    subscriptions = Subscriptions()
    for link in links:
        subscriptions.add(link)
    return choose(subscriptions, "t", "d", via, last)


OWN, OWN_2 = a_link("d"), a_link("d")
BEHALF = a_link("d", "g1")
GATEWAY_1, GATEWAY_2 = a_link("g1"), a_link("g2")
ONLY_ITSELF = a_link("g1", for_its_devices=False)


@pytest.mark.parametrize(
    ("links", "via", "last", "chosen"),
    [
        ((), ("g1",), None, None),
        ((OWN,), (), None, OWN),
        ((OWN, OWN_2), (), None, OWN_2),
        ((BEHALF, OWN, GATEWAY_1), ("g1",), "g1", OWN),
        ((BEHALF, GATEWAY_2), ("g1", "g2"), "g2", BEHALF),
        ((BEHALF,), ("g2",), None, None),
        ((GATEWAY_1, GATEWAY_2), ("g1", "g2"), "g2", GATEWAY_2),
        ((GATEWAY_1, GATEWAY_2), ("g1", "g2"), None, GATEWAY_1),
        ((GATEWAY_1, GATEWAY_2), ("g1", "g2"), "g3", GATEWAY_1),
        ((GATEWAY_1,), ("g1", "g2"), "g2", GATEWAY_1),
        ((GATEWAY_1,), (), None, None),
        ((ONLY_ITSELF,), ("g1",), None, None),
        ((GATEWAY_1, ONLY_ITSELF), ("g1",), None, GATEWAY_1),
    ],
)
def test_a_command_goes_to_the_link_that_applies(
    links: tuple[Subscription, ...],
    via: tuple[str, ...],
    last: str | None,
    chosen: Subscription | None,
) -> None:
    assert the_choice(*links, via=via, last=last) is chosen


def test_an_ended_link_gives_way_to_the_one_before() -> None:
    subscriptions = Subscriptions()
    subscriptions.add(OWN)
    subscriptions.add(OWN_2)
    assert not subscriptions.remove(OWN_2)
    assert subscriptions.own("t", "d") is OWN
    assert subscriptions.remove(OWN)
    assert not subscriptions.remove(OWN)
    assert len(subscriptions) == 0


def test_last_gateways_are_bounded_and_forgotten_when_the_device_speaks_itself() -> None:
    last = LastGateways(capacity=2)
    for device in ("a", "b", "c"):
        last.note("t", device, "g")
    assert [last.get("t", device) for device in ("a", "b", "c")] == [None, "g", "g"]
    last.note("t", "b", None)
    assert last.get("t", "b") is None


# --- search ----------------------------------------------------------------------------------------

DOCUMENTS: list[dict[str, Any]] = [
    {"id": "a", "enabled": True, "ext": {"n": 2, "s": "x[1]"}},
    {"id": "b", "enabled": False, "ext": {"n": 1, "s": "xy"}},
    {"id": "c", "enabled": True, "ext": {"n": 1}},
]


@pytest.mark.parametrize(
    ("query", "ids", "total"),
    [
        ({}, "abc", 3),
        ({"filterJson": '{"field":"/enabled","value":true}'}, "ac", 2),
        ({"filterJson": '{"field":"/enabled","value":1}'}, "", 0),
        ({"filterJson": '{"field":"/ext/n","value":1}'}, "bc", 2),
        ({"filterJson": '{"field":"/ext/s","value":"x?"}'}, "b", 1),
        ({"filterJson": '{"field":"/ext/s","value":"x[1*"}'}, "a", 1),
        ({"filterJson": '{"field":"/ext/s","value":"x"}'}, "", 0),
        ({"sortJson": '{"field":"/ext/n"}'}, "bca", 3),
        ({"sortJson": '{"field":"/ext/s","direction":"desc"}', "pageSize": "2"}, "ba", 3),
        ({"pageSize": "1", "pageOffset": "2"}, "c", 3),
        ({"pageSize": "0"}, "", 3),
        ({"pageOffset": "9"}, "", 3),
    ],
)
def test_search_filters_sorts_and_pages(query: dict[str, str], ids: str, total: int) -> None:
    search = parse_search(tuple(query.items()), devices=True)
    if not total:
        with pytest.raises(NotFound):
            search.run(DOCUMENTS)
        return
    found: Any = search.run(DOCUMENTS)
    assert ("".join(d["id"] for d in found["result"]), found["total"]) == (ids, total)


def test_filters_are_joined_by_and() -> None:
    query = (
        ("filterJson", '{"field":"/ext/n","value":1}'),
        ("filterJson", '{"field":"/enabled","value":true}'),
    )
    found: Any = parse_search(query, devices=False).run(DOCUMENTS)
    assert [d["id"] for d in found["result"]] == ["c"]


def test_the_number_of_conditions_is_bounded() -> None:
    query = (("filterJson", '{"field":"/a","value":1}'),) * 21
    with pytest.raises(BadRequest, match="20"):
        parse_search(query, devices=True)


# --- paths of the HTTP adapter ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method", "target"),
    [
        ("/telemetry", "POST", Target("telemetry", "POST")),
        ("/event", "OPTIONS", Target("event", "POST")),
        ("/telemetry/t/d", "PUT", Target("telemetry", "PUT", "t", "d")),
        ("/telemetry//ns%3Ad", "PUT", Target("telemetry", "PUT", None, "ns:d")),
        ("/command/res/abc", "POST", Target("command", "POST", request_id="abc")),
        ("/command/res/a/b/c", "POST", Target("command", "POST", request_id="a/b/c")),
        ("/command/res/t/d/abc", "PUT", Target("command", "PUT", "t", "d", "abc")),
        ("/command/res//d/a/b", "PUT", Target("command", "PUT", None, "d", "a/b")),
        ("/telemetry/t", "PUT", None),
        ("/telemetry/t/", "PUT", None),
        ("/telemetry/t/d/x", "PUT", None),
        ("/command/req/abc", "POST", None),
        ("/command/res", "POST", None),
        ("/command/res/", "POST", None),
        ("/t", "POST", None),
        ("*", "OPTIONS", None),
        ("", "POST", None),
    ],
)
def test_a_path_says_what_it_is_for(path: str, method: str, target: Target | None) -> None:
    assert parse_path(path, method) == target
