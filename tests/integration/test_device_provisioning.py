"""Devices that register themselves: by certificate, through a gateway, announced at least once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from gateway.errors import (
    DeviceNotFound,
    Forbidden,
    GatewayError,
    StoreUnavailable,
    Unauthenticated,
)
from gateway.hono.provisioning import PROVISIONED, Provisioning
from gateway.hono.registry import Registry
from gateway.model.login import Login, TlsPeer
from gateway.model.message import Adapter, Principal
from gateway.model.registry import Assertion
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import running
from gateway.store.database import Database
from tests.device_pki import Holder, issue
from tests.hono_rig import Consumer, Core, a_core, until

SENT = "auto-provisioning-notification-sent"
AUTHORITY = issue("CN=Acme CA,O=Acme")


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core:
        yield core


def trusting(**more: object) -> Any:
    entry = AUTHORITY.anchor(**{"auto-provisioning-enabled": True, **more})
    return {"trusted-ca": [entry]}


async def login(core: Core, device: Holder, host: str | None = None) -> Principal | GatewayError:
    future: asyncio.Future[Principal | GatewayError] = asyncio.get_running_loop().create_future()
    attempt = Login(peer=TlsPeer(device.der, host))
    core.authenticator.check_login(attempt, Adapter.MQTT, future.set_result)
    return await future


async def ask(core: Core, device: str, gateway: str) -> Assertion | GatewayError:
    future: asyncio.Future[Assertion | GatewayError] = asyncio.get_running_loop().create_future()
    core.registry.assert_device("acme", device, gateway, future.set_result)
    return await future


async def status(core: Core, device: str) -> Any:
    document, _ = await core.registry.read_device("acme", device)
    return document["status"]


async def sent(core: Core, device: str) -> None:
    async with asyncio.timeout(30):
        while not (await status(core, device))[SENT]:  # noqa: ASYNC110  in the store there is no event
            await asyncio.sleep(0.005)  # the mark is written after the answer, and nobody tells


# --- by certificate -----------------------------------------------------------------------------------


async def test_an_unknown_certificate_of_the_authority_makes_a_device(core: Core) -> None:
    await core.tenant("acme", trusting())
    found = await login(core, issue("CN=d1,O=Acme", AUTHORITY))
    assert isinstance(found, Principal)
    assert (found.tenant, found.auth_id, found.credential_type) == (
        "acme",
        "CN=d1,O=Acme",
        "x509-cert",
    )
    credentials, _ = await core.registry.read_credentials("acme", found.device)
    assert [(c["type"], c["auth-id"]) for c in credentials] == [("x509-cert", "CN=d1,O=Acme")]  # type: ignore[call-overload,index]
    await sent(core, found.device)
    assert (await status(core, found.device))["auto-provisioned"] is True
    (event,) = core.consumer.messages
    assert (event.kind, event.device, event.content_type, event.payload) == (
        "event",
        found.device,
        PROVISIONED,
        b"",
    )
    assert event.properties == {"hono_registration_status": "NEW", "tenant_id": "acme"}


async def test_templates_name_device_and_credential(core: Core) -> None:
    templates = {
        "auth-id-template": "{{subject-ou}}-{{subject-cn}}",
        "auto-provisioning-device-id-template": "dev-{{subject-cn}}",
        "auto-provision-as-gateway": True,
    }
    await core.tenant("acme", trusting(**templates))
    found = await login(core, issue("CN=7,OU=Things", AUTHORITY))
    assert isinstance(found, Principal)
    assert (found.device, found.auth_id) == ("dev-7", "Things-7")
    document, _ = await core.registry.read_device("acme", "dev-7")
    assert document["authorities"] == ["auto-provisioning-enabled"]


async def test_many_first_logins_at_once_make_one_device(core: Core) -> None:
    await core.tenant("acme", trusting())
    device = issue("CN=d1", AUTHORITY)
    found = await asyncio.gather(*(login(core, device) for _ in range(50)))
    assert len({p.device for p in found if isinstance(p, Principal)}) == 1
    assert len(core.consumer.messages) == 1


async def test_a_device_that_may_not_be_made_is_not_let_in(core: Core) -> None:
    more = {"auto-provisioning-device-id-template": "{{subject-cn}}"}
    await core.tenant("acme", {**trusting(**more), "registration-limits": {"max-devices": 2}})
    await core.device("acme", "taken")
    assert isinstance(await login(core, issue("CN=taken", AUTHORITY)), Unauthenticated)
    assert isinstance(await login(core, issue("CN=no id!", AUTHORITY)), Unauthenticated)
    assert isinstance(await login(core, issue("CN=second", AUTHORITY)), Principal)
    assert isinstance(await login(core, issue("CN=third", AUTHORITY)), Unauthenticated)


async def test_without_leave_of_the_anchor_nothing_is_made(core: Core) -> None:
    await core.tenant("acme", {"trusted-ca": [AUTHORITY.anchor()]})
    assert isinstance(await login(core, issue("CN=d1", AUTHORITY)), Unauthenticated)
    assert core.consumer.messages == []


async def test_a_credential_that_is_switched_off_is_not_made_anew(core: Core) -> None:
    await core.tenant("acme", trusting())
    await core.device("acme", "d1")
    disabled: Any = {
        "type": "x509-cert",
        "auth-id": "CN=d1",
        "enabled": False,
        "secrets": [{}],
    }
    await core.registry.update_credentials("acme", "d1", [disabled], None)
    assert isinstance(await login(core, issue("CN=d1", AUTHORITY)), Unauthenticated)


async def test_a_deleted_device_comes_back_with_its_next_login(core: Core) -> None:
    await core.tenant("acme", trusting())
    device = issue("CN=d1", AUTHORITY)
    first = await login(core, device)
    assert isinstance(first, Principal)
    await core.registry.delete_device("acme", first.device, None)
    second = await login(core, device)
    assert isinstance(second, Principal)
    assert second.device != first.device


# --- through a gateway --------------------------------------------------------------------------------


async def a_gateway(core: Core, name: str = "gw", **more: object) -> None:
    body: Any = {"authorities": ["auto-provisioning-enabled"], **more}
    await core.device("acme", name, body)


async def test_a_gateway_with_that_right_makes_its_devices(core: Core) -> None:
    await core.tenant("acme")
    await a_gateway(core, memberOf=["floor-1"])
    found = await ask(core, "new", "gw")
    assert isinstance(found, Assertion)
    assert (found.device.device_id, found.via) == ("new", ("gw",))
    document, _ = await core.registry.read_device("acme", "new")
    assert (document["via"], document["viaGroups"]) == (["gw"], ["floor-1"])
    await sent(core, "new")
    (event,) = core.consumer.messages
    assert (event.device, event.content_type) == ("new", PROVISIONED)
    assert event.properties["gateway_id"] == "gw"


@pytest.mark.parametrize(
    "body", [{}, {"enabled": False, "authorities": ["auto-provisioning-enabled"]}]
)
async def test_a_gateway_without_that_right_makes_none(core: Core, body: Any) -> None:
    await core.tenant("acme")
    await core.device("acme", "gw", body)
    assert isinstance(await ask(core, "new", "gw"), DeviceNotFound)
    assert isinstance(await ask(core, "new", "nobody"), DeviceNotFound)


async def test_ids_that_are_none_make_no_device(core: Core) -> None:
    await core.tenant("acme")
    await a_gateway(core)
    assert isinstance(await ask(core, "no id", "gw"), DeviceNotFound)


async def test_many_first_messages_at_once_make_one_device(core: Core) -> None:
    await core.tenant("acme")
    await a_gateway(core)
    found = await asyncio.gather(*(ask(core, "new", "gw") for _ in range(50)))
    assert all(isinstance(answer, Assertion) for answer in found)
    assert len(core.consumer.messages) == 1


async def test_of_two_gateways_at_once_one_gets_the_device(core: Core) -> None:
    await core.tenant("acme")
    await a_gateway(core)
    await a_gateway(core, "gw2")
    one, two = await asyncio.gather(ask(core, "new", "gw"), ask(core, "new", "gw2"))
    assert {type(one), type(two)} == {Assertion, Forbidden}


async def test_the_tenants_limit_holds(core: Core) -> None:
    await core.tenant("acme", {"registration-limits": {"max-devices": 2}})
    await a_gateway(core)
    assert isinstance(await ask(core, "one", "gw"), Assertion)
    assert isinstance(await ask(core, "two", "gw"), Forbidden)


# --- the announcement ---------------------------------------------------------------------------------


async def test_a_device_is_announced_again_until_somebody_took_it(core: Core) -> None:
    core.consumer.outcome = StoreUnavailable()
    await core.tenant("acme")
    await a_gateway(core)
    assert isinstance(await ask(core, "new", "gw"), Assertion)
    assert (await status(core, "new"))[SENT] is False
    core.consumer.outcome = None
    later = Provisioning(core.registry, core.registry._database, core.consumer, core.tracer)
    async with running(later):
        await sent(core, "new")
    assert [m.device for m in core.consumer.messages] == ["new", "new"]
    assert core.consumer.messages[1].properties["gateway_id"] == "gw"


def _has_some(consumer: Consumer) -> bool:
    return bool(consumer.messages)


async def test_what_a_crash_left_unannounced_is_announced_by_the_next_start(tmp_path: Any) -> None:
    silent = Consumer()
    silent.hold()
    for run, consumer in enumerate((silent, Consumer(), Consumer())):
        database = Database(tmp_path / "gateway.db", "gateway")
        registry = Registry(database, Metrics())
        provisioning = Provisioning(registry, database, consumer, Tracer())
        async with database.running(), running(registry), running(provisioning):
            if run == 0:
                await registry.create_tenant("acme", {})
                body: Any = {"authorities": ["auto-provisioning-enabled"]}
                await registry.create_device("acme", "gw", body)
                registry.assert_device("acme", "new", "gw", lambda _found: None)
                await until(lambda: bool(silent.messages))
            elif run == 1:
                await until(partial(_has_some, consumer))
                await registry.write(lambda _db: None, lambda _none: None)  # after the mark
            else:
                await asyncio.sleep(0.05)
        assert len(consumer.messages) == (1, 1, 0)[run]


async def test_a_device_waits_for_its_announcement_at_most_as_long_as_messaging_does(
    core: Core,
) -> None:
    held = core.consumer.hold()
    await core.tenant("acme")
    await a_gateway(core)
    waiting = asyncio.ensure_future(ask(core, "new", "gw"))
    await until(lambda: bool(held))
    assert not waiting.done()
    held[0](StoreUnavailable())
    assert isinstance(await waiting, Assertion)


async def test_the_instant_of_creation_is_kept(core: Core) -> None:
    await core.tenant("acme")
    await a_gateway(core)
    before = time.time()
    await ask(core, "new", "gw")
    created = (await status(core, "new"))["created"]
    assert created[:4] == time.strftime("%Y", time.gmtime(before))
