"""Logins and provisioning where the registry is a service: certificates, tokens, keys."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from gateway.errors import GatewayError, Unauthenticated
from gateway.hono.remote_services.notifications import change_of
from gateway.hono.remote_services.requests import Answer, _age
from gateway.model.json import Json
from gateway.model.login import Login, TlsPeer
from gateway.model.message import Adapter, Principal
from gateway.model.registry import Change, RegistryChange, Subject
from tests.device_pki import Holder, issue, public_der
from tests.hono_rig import Core, a_core, a_fleet, until
from tests.integration.remote_rig import Away, services_and_adapters
from tests.integration.test_remote_services import asked

AUTHORITY = issue("CN=Acme CA,O=Acme")


async def login(away: Away, device: Holder, host: str | None = None) -> Any:
    attempt = Login(peer=TlsPeer(device.der, host))
    return await asked(away.side.authenticator.check_login, attempt, Adapter.MQTT)


async def with_authority(core: Core, **more: object) -> None:
    anchor: Json = AUTHORITY.anchor(**more)
    await core.tenant("acme", {"trusted-ca": [anchor]})


async def test_a_device_is_known_by_its_certificate() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await with_authority(core, **{"auth-id-template": "{{subject-cn}}"})
        await core.device("acme", "d1")
        credential: Json = [{"type": "x509-cert", "auth-id": "sensor7", "secrets": [{}]}]
        await core.registry.update_credentials("acme", "d1", credential, None)
        found = await login(away, issue("CN=sensor7,O=Acme", AUTHORITY))
        assert found == Principal("acme", "d1", "sensor7", "x509-cert")
        stranger = issue("CN=Evil CA,O=Evil")
        assert isinstance(await login(away, issue("CN=sensor7,O=Acme", stranger)), Unauthenticated)
        assert isinstance(await login(away, issue("CN=none,O=Acme", AUTHORITY)), Unauthenticated)


async def test_a_certificate_makes_its_device_once_where_the_authority_may() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await with_authority(core, **{"auto-provisioning-enabled": True})
        device = issue("CN=new,O=Acme", AUTHORITY)
        found = await login(away, device)
        assert isinstance(found, Principal)
        credentials, _ = await core.registry.read_credentials("acme", found.device)
        assert len(credentials) == 1
        assert await login(away, device) == found


async def test_a_gateway_with_the_right_makes_devices_behind_it() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        await core.device("acme", "gw-2", {"authorities": ["auto-provisioning-enabled"]})
        found = await asked(away.side.registry.assert_device, "acme", "new-1", "gw-2")
        assert found.via == ("gw-2",)
        document, _ = await core.registry.read_device("acme", "new-1")
        assert document["via"] == ["gw-2"]


@pytest.mark.parametrize("kind", ["hashed-password", "psk", "rpk", "x509-cert"])
async def test_credentials_of_every_kind_come_with_what_is_needed_to_check(kind: str) -> None:
    secret: dict[str, Any] = {
        "hashed-password": {"pwd-plain": "pw", "not-after": "2999-01-01T00:00:00Z"},
        "psk": {"key": base64.b64encode(b"hono-secret").decode()},
        "rpk": {"key": public_der(AUTHORITY.key), "algorithm": "EC"},
        "x509-cert": {},
    }
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        auth_id = "CN=d1" if kind == "x509-cert" else "s1"
        given: Json = [
            {"type": kind, "auth-id": auth_id, "ext": {"client-id": "c"}, "secrets": [secret[kind]]}
        ]
        await core.registry.update_credentials("acme", "d1", given, None)
        near = await asked(core.registry.find_credential, "acme", kind, auth_id)
        far = await asked(away.side.registry.find_credential, "acme", kind, auth_id)
        assert (far.device_id, far.credential.ext) == ("d1", {"client-id": "c"})
        assert far.credential.secrets[0].data == near.credential.secrets[0].data
        assert far.credential.secrets[0].not_after == near.credential.secrets[0].not_after
        again = await asked(away.side.registry.find_credential, "acme", kind, auth_id)
        assert (again is far) == (kind in ("hashed-password", "x509-cert"))


async def test_credentials_that_want_another_client_refuse_this_one() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        given: Json = [
            {
                "type": "hashed-password",
                "auth-id": "s1",
                "ext": {"client-id": "right"},
                "secrets": [{"pwd-plain": "pw"}],
            }
        ]
        await core.registry.update_credentials("acme", "d1", given, None)
        for client, kind in (("right", Principal), ("wrong", GatewayError)):
            attempt = Login(username="s1@acme", password=b"pw", context={"client-id": client})
            found = await asked(away.side.authenticator.check_login, attempt, Adapter.MQTT)
            assert isinstance(found, kind)


async def test_a_new_authority_counts_from_the_moment_of_its_change() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await core.tenant("acme")
        await core.device("acme", "d1")
        credential: Json = [{"type": "x509-cert", "auth-id": "CN=d1,O=Acme", "secrets": [{}]}]
        await core.registry.update_credentials("acme", "d1", credential, None)
        device = issue("CN=d1,O=Acme", AUTHORITY)
        assert isinstance(await login(away, device), Unauthenticated)
        heard: list[Any] = []
        away.side.registry.on_change(heard.append)
        anchor: Json = AUTHORITY.anchor()
        await core.registry.update_tenant("acme", {"trusted-ca": [anchor]}, None)
        await until(lambda: bool(heard))
        assert isinstance(await login(away, device), Principal)


@pytest.mark.parametrize(
    ("directive", "seconds"),
    [
        (None, 600.0),
        ("max-age = 180", 180.0),
        ("max-age=5, private", 5.0),
        ("no-cache", 0.0),
        ("max-age = 999999", 86_400.0),
        (7, 0.0),
    ],
)
def test_answers_are_kept_as_long_as_the_service_allows(directive: object, seconds: float) -> None:
    assert _age(directive) == seconds
    assert Answer(200).text == ""


def test_notifications_are_read_as_hono_writes_them() -> None:
    body = (
        b'{"type": "device-change-v1", "source": "device-registry", "change": "DELETE",'
        b' "creation-time": "2026-04-01T12:00:00.000Z", "tenant-id": "acme", "device-id": "d1",'
        b' "enabled": false}'
    )
    assert change_of(body) == RegistryChange(
        Subject.DEVICE, Change.DELETE, "acme", "d1", enabled=False
    )
    gone = b'{"type": "all-devices-of-tenant-deleted-v1", "tenant-id": "acme"}'
    assert change_of(gone) == RegistryChange(Subject.ALL_DEVICES, Change.DELETE, "acme")
    for broken in (b"", b"[]", b"{}", b'{"type": "x", "tenant-id": "t"}', b"\xff"):
        with pytest.raises(GatewayError, match="notification"):
            change_of(broken)
