"""Tenants, devices and credentials: what is read, and which member a fault names."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import pytest

from gateway.errors import BadRequest
from gateway.model.credentials_json import (
    credential_json,
    merge,
    parse_credentials,
    parse_stored,
    stored_json,
)
from gateway.model.members import format_instant, parse_instant
from gateway.model.registry import (
    Change,
    Credential,
    PeriodMode,
    RegistryChange,
    Secret,
    Subject,
)
from gateway.model.registry_json import (
    check_device_id,
    check_tenant_id,
    parse_device,
    parse_tenant,
)

CA: dict[str, Any] = {
    "id": "ca-1",
    "subject-dn": "CN=Acme",
    "public-key": "a2V5",
    "not-before": "2025-01-01T00:00:00+02:00",
    "not-after": "2035-01-01T00:00:00Z",
}
BCRYPT = "$2a$10$" + "a" * 53
SHA = base64.b64encode(b"h" * 32).decode()


def test_an_empty_tenant_has_all_adapters_and_no_limits() -> None:
    tenant = parse_tenant("acme", {})
    assert tenant.enabled
    assert tenant.document == {"enabled": True}
    assert tenant.adapter("hono-mqtt").enabled
    assert tenant.adapter("hono-mqtt").authentication_required
    assert tenant.adapter("hono-http").max_ttd == 60
    assert tenant.limits.max_connections == -1


def test_adapters_that_are_not_listed_or_not_switched_on_are_disabled() -> None:
    tenant = parse_tenant(
        "acme",
        {
            "adapters": [
                {"type": "hono-http", "enabled": True, "ext": {"max-ttd": 30}, "more": 1},
                {"type": "hono-mqtt"},
            ]
        },
    )
    assert tenant.adapter("hono-http").enabled
    assert tenant.adapter("hono-http").max_ttd == 30
    assert not tenant.adapter("hono-mqtt").enabled
    assert not tenant.adapter("hono-amqp").enabled


def test_a_full_tenant_is_read() -> None:
    tenant = parse_tenant(
        "acme",
        {
            "enabled": False,
            "alias": "a-1",
            "ext": {"messaging-type": "amqp"},
            "defaults": {"ttl": 30},
            "minimum-message-size": 4_096,
            "registration-limits": {"max-devices": 5, "max-credentials-per-device": 2},
            "resource-limits": {
                "max-connections": 7,
                "max-ttl": 60,
                "data-volume": {
                    "effective-since": "2026-01-15T00:00:00Z",
                    "max-bytes": 10,
                    "period": {"mode": "days", "no-of-days": 3},
                },
                "connection-duration": {
                    "effective-since": "2026-01-15T00:00:00Z",
                    "max-minutes": 9,
                    "period": {"mode": "monthly"},
                },
            },
            "tracing": {"sampling-mode": "all", "sampling-mode-per-auth-id": {"s1": "none"}},
            "trust-anchor-group": "fleet",
            "trusted-ca": [CA],
        },
    )
    assert (tenant.alias, tenant.max_devices, tenant.max_credentials_per_device) == ("a-1", 5, 2)
    volume = tenant.limits.data_volume
    assert volume is not None
    assert (volume.maximum, volume.mode, volume.days) == (10, PeriodMode.DAYS, 3)
    assert tenant.anchors == ("CN=Acme",)
    trusted: Any = tenant.document["trusted-ca"]
    assert trusted[0]["not-before"] == "2024-12-31T22:00:00Z"
    assert trusted[0]["algorithm"] == "RSA"
    assert [tenant.metered_size(n) for n in (0, 1, 4_096, 10_000)] == [0, 4_096, 4_096, 12_288]
    assert parse_tenant("acme", tenant.document) == tenant


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ([], "body: expected object, got array"),
        ({"enabled": "yes"}, "enabled: expected boolean, got string"),
        ({"colour": 1}, "unknown member: colour"),
        ({"alias": "A B"}, "alias: "),
        ({"ext": []}, "ext: expected object"),
        ({"adapters": []}, "adapters: "),
        ({"adapters": {}}, "adapters: expected array"),
        ({"adapters": [7]}, "adapters[0]: expected object, got number"),
        ({"adapters": [{}]}, "adapters[0].type"),
        ({"adapters": [{"type": "a"}, {"type": "a"}]}, "adapters[1].type"),
        ({"adapters": [{"type": "a", "enabled": 1}]}, "adapters[0].enabled"),
        ({"minimum-message-size": -1}, "minimum-message-size"),
        ({"minimum-message-size": True}, "minimum-message-size: expected integer, got boolean"),
        ({"registration-limits": {"max": 1}}, "unknown member: registration-limits.max"),
        ({"registration-limits": {"max-devices": 1.5}}, "registration-limits.max-devices"),
        ({"resource-limits": {"max-ttl": -2}}, "resource-limits.max-ttl"),
        ({"resource-limits": {"data-volume": {}}}, "data-volume.effective-since"),
        (
            {"resource-limits": {"data-volume": {"effective-since": "yesterday"}}},
            "resource-limits.data-volume.effective-since",
        ),
        (
            {"resource-limits": {"data-volume": {"effective-since": "2026-01-01T00:00:00"}}},
            "offset",
        ),
        ({"tracing": {"sampling-mode": "some"}}, "tracing.sampling-mode"),
        ({"tracing": {"sampling-mode-per-auth-id": {"a": 1}}}, "tracing.a"),
        ({"trusted-ca": [{"id": "x"}]}, "trusted-ca[0].subject-dn"),
        ({"trusted-ca": [{**CA, "not-before": "2036-01-01T00:00:00Z"}]}, "not-before"),
        ({"trusted-ca": [{**CA, "auth-id-template": "x"}]}, "auth-id-template"),
        ({"trusted-ca": [{**CA, "colour": 1}]}, "trusted-ca[0].colour"),
    ],
)
def test_a_fault_in_a_tenant_is_named(body: Any, named: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_tenant("acme", body)
    assert named in caught.value.message


@pytest.mark.parametrize(
    ("period", "named"),
    [
        ({}, "period.mode"),
        ({"mode": "weekly"}, "period.mode"),
        ({"mode": "days"}, "period.no-of-days"),
        ({"mode": "days", "no-of-days": 0}, "period.no-of-days"),
        ({"mode": "monthly", "x": 1}, "period.x"),
    ],
)
def test_a_fault_in_a_period_is_named(period: Any, named: str) -> None:
    volume = {"effective-since": "2026-01-15T00:00:00Z", "period": period}
    with pytest.raises(BadRequest) as caught:
        parse_tenant("acme", {"resource-limits": {"data-volume": volume}})
    assert named in caught.value.message


def test_a_device_is_read_and_its_status_dropped() -> None:
    device = parse_device(
        "acme",
        "d1",
        {
            "via": "gw-1",
            "viaGroups": ["g"],
            "defaults": {"ttl": 5},
            "authorities": ["auto-provisioning-enabled"],
            "command-endpoint": {"uri": "http://a", "headers": {}, "payload-properties": {}},
            "status": {"created": "x"},
        },
    )
    assert device.via == ("gw-1",)
    assert device.document["via"] == ["gw-1"]
    assert "status" not in device.document
    assert parse_device("acme", "d1", device.document) == device


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("x", "body: expected object, got string"),
        ({"via": 7}, "via: expected array"),
        ({"via": [""]}, "via[0]"),
        ({"via": ["a", 1]}, "via[1]"),
        ({"memberOf": ["a"], "via": ["b"]}, "memberOf"),
        ({"memberOf": ["a"], "viaGroups": ["b"]}, "memberOf"),
        ({"authorities": ["root"]}, "authorities"),
        ({"command-endpoint": {}}, "command-endpoint.uri"),
        ({"command-endpoint": {"uri": "a", "x": 1}}, "command-endpoint.x"),
        ({"upstream-message-mapper": 1}, "upstream-message-mapper"),
        ({"id": "d1"}, "unknown member: id"),
    ],
)
def test_a_fault_in_a_device_is_named(body: Any, named: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_device("acme", "d1", body)
    assert named in caught.value.message


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "x" * 256, "a\n"])
def test_ids_follow_their_patterns(name: str) -> None:
    for check in (check_tenant_id, check_device_id):
        with pytest.raises(BadRequest):
            check(name)


def test_device_ids_may_have_colons_and_tenant_ids_not() -> None:
    assert check_device_id("ns:lamp=1") == "ns:lamp=1"
    with pytest.raises(BadRequest):
        check_tenant_id("ns:lamp")


# --- credentials -----------------------------------------------------------------------------------


def a_credential(*secrets: Any, kind: str = "hashed-password", **members: Any) -> dict[str, Any]:
    return {"type": kind, "auth-id": "s1", "secrets": list(secrets), **members}


@pytest.mark.parametrize(
    "credential",
    [
        a_credential({"pwd-plain": "pw"}),
        a_credential({"pwd-hash": SHA}),
        a_credential({"pwd-hash": SHA, "salt": "c2FsdA==", "hash-function": "sha-256"}),
        a_credential({"pwd-hash": BCRYPT, "hash-function": "bcrypt"}),
        a_credential({"id": "known"}),
        a_credential({"key": "c2VjcmV0"}, kind="psk"),
        a_credential({}, kind="x509-cert", **{"auth-id": "CN=a,O=b"}),
        a_credential({"key": "a2V5", "algorithm": "EC"}, kind="rpk"),
        a_credential({}, kind="my-own", ext={"client-id": "c"}, comment="x", enabled=False),
    ],
)
def test_good_credentials_are_read(credential: dict[str, Any]) -> None:
    (read,) = parse_credentials([credential])
    assert (read.type, read.auth_id) == (credential["type"], credential["auth-id"])


@pytest.mark.parametrize(
    ("credential", "named"),
    [
        (7, "[0]: expected object"),
        (a_credential({"pwd-plain": "pw"}, kind="A_B"), "[0].type"),
        ({"auth-id": "a", "secrets": [{}]}, "[0].type"),
        (a_credential({"pwd-plain": "pw"}, **{"auth-id": "a b"}), "[0].auth-id"),
        (a_credential(), "[0].secrets"),
        (a_credential({}), "[0].secrets[0].pwd-plain"),
        (a_credential({"pwd-plain": ""}), "[0].secrets[0].pwd-plain"),
        (a_credential({"pwd-plain": "x" * 73}), "[0].secrets[0].pwd-plain"),
        (a_credential({"salt": "c2FsdA=="}), "[0].secrets[0].pwd-hash"),
        (a_credential({"pwd-hash": "%%"}), "[0].secrets[0].pwd-hash"),
        (a_credential({"pwd-hash": "c2hvcnQ="}), "32 bytes"),
        (a_credential({"pwd-hash": SHA, "salt": "%"}), "[0].secrets[0].salt"),
        (a_credential({"pwd-hash": SHA, "hash-function": "md5"}), "hash-function"),
        (
            a_credential({"pwd-hash": BCRYPT.replace("2a", "2y"), "hash-function": "bcrypt"}),
            "$2a$",
        ),
        (
            a_credential({"pwd-hash": BCRYPT.replace("$10$", "$11$"), "hash-function": "bcrypt"}),
            "4..10",
        ),
        (a_credential({"key": "%"}, kind="psk"), "[0].secrets[0].key"),
        (a_credential({}, kind="psk"), "[0].secrets[0].key"),
        (a_credential({"pwd-plain": "x"}, kind="psk"), "unknown member"),
        (a_credential({}, {}, kind="x509-cert"), "exactly one"),
        (a_credential({"key": "a2V5"}, kind="rpk"), "algorithm"),
        (a_credential({"algorithm": "EC"}, kind="rpk"), "key"),
        (a_credential({"id": "a"}, {"id": "a"}), "each secret id once"),
        (a_credential({"pwd-plain": "x"}, colour=1), "unknown member: [0].colour"),
        (
            a_credential(
                {
                    "pwd-plain": "x",
                    "not-before": "2026-01-02T00:00:00Z",
                    "not-after": "2026-01-01T00:00:00Z",
                }
            ),
            "not-before",
        ),
    ],
)
def test_a_fault_in_credentials_is_named(credential: Any, named: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_credentials([credential])
    assert named in caught.value.message


def test_the_set_is_an_array_without_doubles() -> None:
    one = a_credential({"pwd-plain": "pw"})
    with pytest.raises(BadRequest, match="expected array"):
        parse_credentials({})
    with pytest.raises(BadRequest, match="twice"):
        parse_credentials([one, one])


def ids() -> Any:
    counter = itertools.count(1)
    return lambda: f"id-{next(counter)}"


def test_merge_keeps_what_a_known_id_stands_for_and_drops_what_is_not_named() -> None:
    stored = merge(
        parse_credentials([a_credential({"pwd-hash": SHA}, {"pwd-hash": SHA, "salt": "c2FsdA=="})]),
        (),
        ids(),
    )
    drafts = parse_credentials([a_credential({"id": "id-2", "enabled": False, "comment": "new"})])
    (merged,) = merge(drafts, stored, ids())
    (secret,) = merged.secrets
    assert (secret.secret_id, secret.enabled, secret.comment) == ("id-2", False, "new")
    assert secret.data == {"pwd-hash": SHA, "salt": "c2FsdA==", "hash-function": "sha-256"}


def test_merge_takes_new_confidential_data_for_a_known_id() -> None:
    stored = merge(parse_credentials([a_credential({"key": "YQ=="}, kind="psk")]), (), ids())
    drafts = parse_credentials([a_credential({"id": "id-1", "key": "Yg=="}, kind="psk")])
    assert merge(drafts, stored, ids())[0].secrets[0].data == {"key": "Yg=="}


def test_merge_refuses_an_id_that_is_not_stored() -> None:
    with pytest.raises(BadRequest, match="nobody"):
        merge(parse_credentials([a_credential({"id": "nobody"})]), (), ids())


@pytest.mark.parametrize(
    ("kind", "secret", "shown"),
    [
        ("hashed-password", {"pwd-hash": SHA}, set()),
        ("psk", {"key": "YQ=="}, set()),
        ("rpk", {"key": "YQ==", "algorithm": "EC"}, {"key", "algorithm"}),
        ("my-own", {"key": "YQ=="}, set()),
    ],
)
def test_confidential_members_are_stored_and_not_shown(
    kind: str, secret: dict[str, Any], shown: set[str]
) -> None:
    (credential,) = merge(parse_credentials([a_credential(secret, kind=kind)]), (), ids())
    seen: Any = credential_json(credential)
    assert set(seen["secrets"][0]) == {"id", "enabled"} | shown
    assert parse_stored(stored_json(credential)) == credential


def test_a_plain_password_is_never_written() -> None:
    secret = Secret(secret_id="a", data={"pwd-plain": "pw"})
    credential = Credential(type="hashed-password", auth_id="s1", secrets=(secret,))
    assert "pw" not in str(stored_json(credential)).replace("pwd", "").replace("password", "")
    assert "pw'" not in repr(secret)


@pytest.mark.parametrize(
    ("secret", "usable"),
    [
        (Secret(), True),
        (Secret(enabled=False), False),
        (Secret(not_before=101), False),
        (Secret(not_before=100, not_after=100), True),
        (Secret(not_after=99), False),
    ],
)
def test_a_secret_is_usable_inside_its_validity(secret: Secret, usable: bool) -> None:
    assert secret.is_usable(100) is usable


def test_instants_are_written_in_utc_to_the_second() -> None:
    at = parse_instant("2026-04-01T14:00:00.7+02:00", "x")
    assert format_instant(at) == "2026-04-01T12:00:00Z"


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        (RegistryChange(Subject.DEVICE, Change.DELETE, "t", "d"), True),
        (RegistryChange(Subject.DEVICE, Change.UPDATE, "t", "d", enabled=False), True),
        (RegistryChange(Subject.DEVICE, Change.UPDATE, "t", "d"), False),
        (RegistryChange(Subject.TENANT, Change.UPDATE, "t", enabled=False), True),
        (RegistryChange(Subject.ALL_DEVICES, Change.DELETE, "t"), True),
        (RegistryChange(Subject.CREDENTIALS, Change.UPDATE, "t", "d"), False),
    ],
)
def test_what_is_gone_or_disabled_ends_connections(change: RegistryChange, ends: bool) -> None:
    assert change.ends_connections is ends
