"""Adapters that know registry, messaging and command router through Hono's service APIs alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.errors import (
    AuthenticatedDeviceNotFound,
    BadRequest,
    DeviceNotFound,
    Forbidden,
    GatewayDisabled,
    GatewayError,
    NotFound,
    NotProcessed,
    StoreUnavailable,
    TenantDisabled,
    TenantNotFound,
)
from gateway.model.json import Json
from gateway.model.message import Adapter, Kind, Principal
from tests.hono_rig import DEVICE, GATEWAY, a_core, a_fleet, curl, until
from tests.integration.remote_rig import Away, adapters_on, services_and_adapters
from tests.services_rig import the_services

TELEMETRY = ("-H", "content-type: application/json", "-d", '{"t": 21}')


async def post(
    away: Away, path: str, *more: str, user: tuple[str, str] = DEVICE
) -> tuple[int, str]:
    return await curl(*TELEMETRY, "-u", ":".join(user), *more, f"{away.http}{path}")


async def asked(ask: Any, *arguments: Any) -> Any:
    """Wait for what a callback gets."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def told(found: Any) -> None:
        if not future.done():
            future.set_result(found)

    ask(*arguments, told)
    return await future


# --- uploads ---------------------------------------------------------------------------------------------


async def test_telemetry_of_a_device_reaches_the_consumer_as_if_it_had_come_in_there() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        assert await post(away, "/telemetry", "-H", "QoS-Level: 1") == (202, "")
        (message,) = core.consumer.messages
        assert (message.tenant, message.device, message.kind) == ("acme", "d1", Kind.TELEMETRY)
        assert (message.payload, message.content_type) == (b'{"t": 21}', "application/json")
        assert (message.qos, message.adapter, message.address) == (1, "hono-http", "/telemetry")
        assert message.properties == {}


async def test_events_carry_their_time_to_live_and_the_defaults_of_tenant_and_device() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await core.tenant("acme", {"defaults": {"room": "r1"}, "resource-limits": {"max-ttl": 60}})
        await core.device("acme", "d1", {"defaults": {"floor": 3, "dry": True}}, auth_id="sensor1")
        assert (await post(away, "/event", "-H", "hono-ttl: 1000"))[0] == 202
        (message,) = core.consumer.messages
        assert (message.kind, message.qos, message.ttl) == (Kind.EVENT, 1, 60)
        assert message.properties == {"room": "r1", "floor": 3, "dry": True}


async def test_a_gateway_speaks_for_its_device_and_not_for_others() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        await core.device("acme", "d3")
        path, put = "/telemetry/acme/d2", ("-X", "PUT")
        assert (await post(away, path, *put, user=GATEWAY))[0] == 202
        assert core.consumer.messages[0].device == "d2"
        assert (await post(away, "/telemetry/acme/d3", *put, user=GATEWAY))[0] == 403
        assert (await post(away, "/telemetry/acme/nobody", *put, user=GATEWAY))[0] == 404


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (NotProcessed(), 503),
        (NotProcessed(details={"delivery_failed": True}), 503),
        (BadRequest("no such unit"), 400),
        (Forbidden("not yours"), 403),
        (NotFound("nobody"), 404),
        (StoreUnavailable(), 503),
        (GatewayError("a bug"), 503),
    ],
    ids=lambda value: value if isinstance(value, int) else type(value).__name__,
)
async def test_what_the_consumer_says_is_what_the_device_hears(
    outcome: GatewayError, status: int
) -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        core.consumer.outcome = outcome
        assert (await post(away, "/telemetry", "-H", "QoS-Level: 1"))[0] == status


async def test_a_consumer_that_says_nothing_is_given_up() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        held = core.consumer.hold()
        status, text = await post(away, "/telemetry", "-H", "QoS-Level: 1")
        assert status == 503
        assert "consumer failed to indicate in time" in text
        assert len(held) == 1
        labels = {"tenant": "acme", "type": "telemetry"}
        assert away.sample("hono_amqp_timeout_total", **labels) == 1


async def test_wrong_credentials_and_unknown_tenants_are_refused() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        for user in (("sensor1@acme", "wrong"), ("nobody@acme", "pw"), ("sensor1@none", "pw")):
            assert (await post(away, "/telemetry", user=user))[0] == 401
        assert (await post(away, "/telemetry"))[0] == 202


async def test_a_password_is_checked_here_and_asked_for_once() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        for _ in range(5):
            assert (await post(away, "/telemetry"))[0] == 202
        asked_for = {"endpoint": "credentials", "operation": "get", "status": "200"}
        assert core.sample("twinspan_service_requests_total", **asked_for) == 1


# --- registry ----------------------------------------------------------------------------------------------


async def test_the_registry_says_the_same_from_afar() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        await core.tenant("off", {"enabled": False})
        await core.device("acme", "gone", {"enabled": False})
        await core.device("acme", "d4", {"via": ["missing"]})
        asserted = away.side.registry.assert_device
        near, far = (
            await asked(core.registry.assert_device, "acme", "d2", "gw-1"),
            await asked(asserted, "acme", "d2", "gw-1"),
        )
        assert (far.via, far.device.device_id) == (near.via, "d2") == (("gw-1",), "d2")
        for question, answer in (
            (("none", "d1", None), TenantNotFound),
            (("off", "d1", None), TenantDisabled),
            (("acme", "nobody", None), DeviceNotFound),
            (("acme", "gone", None), DeviceNotFound),
            (("acme", "d1", "gw-1"), Forbidden),
            (("acme", "d4", "missing"), GatewayDisabled),
        ):
            assert type(await asked(asserted, *question)) is answer, question
            assert type(await asked(core.registry.assert_device, *question)) is answer, question


async def test_a_tenant_is_found_by_its_alias() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        heard: list[Any] = []
        away.side.registry.on_change(heard.append)
        await core.tenant("acme", {"alias": "a", "minimum-message-size": 64})
        await until(lambda: bool(heard))  # what is asked for meanwhile is not remembered
        found = await asked(away.side.registry.find_tenant, "a")
        assert (found.tenant_id, found.minimum_message_size) == ("acme", 64)
        assert away.side.registry.cached_tenant("a") is found


async def test_changes_of_the_registry_are_heard_at_once() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        assert (await post(away, "/telemetry"))[0] == 202
        heard: list[Any] = []
        away.side.registry.on_change(heard.append)
        await core.registry.update_device("acme", "d1", {"enabled": False}, None)
        await until(lambda: bool(heard))
        assert (await post(away, "/telemetry"))[0] == 404
        await core.registry.update_device("acme", "d1", {}, None)
        await until(lambda: len(heard) == 2)
        assert (await post(away, "/telemetry"))[0] == 202
        adapters: Json = [{"type": "hono-mqtt", "enabled": True}]
        await core.registry.update_tenant("acme", {"adapters": adapters}, None)
        await until(lambda: len(heard) == 3)
        assert (await post(away, "/telemetry"))[0] == 403


async def test_a_new_password_counts_from_the_moment_of_its_change() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        assert (await post(away, "/telemetry"))[0] == 202
        heard: list[Any] = []
        away.side.registry.on_change(heard.append)
        secret: Any = [
            {"type": "hashed-password", "auth-id": "sensor1", "secrets": [{"pwd-plain": "new"}]}
        ]
        await core.registry.update_credentials("acme", "d1", secret, None)
        await until(lambda: bool(heard))
        assert (await post(away, "/telemetry"))[0] == 401
        assert (await post(away, "/telemetry", user=("sensor1@acme", "new")))[0] == 202


async def test_a_device_that_goes_loses_its_connections_at_once() -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await a_fleet(core)
        ended: list[GatewayError] = []
        who = Principal("acme", "d1", "sensor1")
        lease = await asked(away.side.connections.admit, who, Adapter.MQTT, ended.append)
        assert not isinstance(lease, GatewayError)
        await core.registry.delete_device("acme", "d1", None)
        await until(lambda: bool(ended))
        assert isinstance(ended[0], AuthenticatedDeviceNotFound)


# --- the services are away ---------------------------------------------------------------------------


async def test_without_the_services_devices_hear_503_and_with_them_again_all_is_well() -> None:
    async with a_core() as core:
        await a_fleet(core)
        async with the_services(core) as services:
            bind = services.address
            up = adapters_on(services)
            away = await up.__aenter__()
            assert (await post(away, "/telemetry"))[0] == 202
        try:
            await until(lambda: not away.side.downstream.is_connected)
            assert (await post(away, "/telemetry"))[0] == 503
            async with the_services(core, bind=bind):
                await until(lambda: away.side.downstream.is_connected)
                assert (await post(away, "/telemetry"))[0] == 202
        finally:
            await up.__aexit__(None, None, None)
