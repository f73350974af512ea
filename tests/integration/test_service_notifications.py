"""Registry changes on their way to adapters elsewhere: all of them arrive, or who missed some knows it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from gateway.config.hono_services import Services as Settings
from gateway.hono import service_notifications
from gateway.hono.remote_services import notifications
from gateway.hono.remote_services.assembly import remote_side
from gateway.model.registry import RegistryChange, Tenant
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.runtime.module import running
from tests.hono_rig import a_core, a_fleet, until
from tests.integration.remote_rig import ADAPTER, adapters_on, services_and_adapters
from tests.integration.test_remote_services import asked, post
from tests.services_rig import the_services


async def test_more_changes_at_once_than_there_is_credit_are_all_heard() -> None:
    names = [f"d{number}" for number in range(500)]
    heard: list[str | None] = []
    async with a_core() as core, services_and_adapters(core) as away:
        await core.tenant("acme", {})
        await asyncio.gather(*(core.device("acme", name) for name in names))
        away.side.registry.on_change(lambda change: heard.append(change.device_id))
        gone = (core.registry.delete_device("acme", name, None) for name in names)
        await asyncio.gather(*gone)
        await until(lambda: set(heard) >= set(names))


async def test_who_has_missed_changes_forgets_everything_and_listens_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_core() as core, services_and_adapters(core) as away:
        await core.tenant("acme", {})
        registry = away.side.registry
        assert isinstance(await asked(registry.find_tenant, "acme"), Tenant)
        with monkeypatch.context() as patch:
            patch.setattr(service_notifications, "MAX_WAITING", 0)
            await core.device("acme", "d1")
            await until(lambda: registry.cached_tenant("acme") is None)
        await until(lambda: away.side.notifications.is_listening)
        heard: list[str | None] = []
        registry.on_change(lambda change: heard.append(change.device_id))
        await core.device("acme", "d2")
        await until(lambda: "d2" in heard)


async def test_what_changed_while_the_services_were_away_counts_once_they_are_back() -> None:
    async with a_core() as core:
        await a_fleet(core)
        async with the_services(core) as services:
            bind = services.address
            up = adapters_on(services)
            away = await up.__aenter__()
            assert (await post(away, "/telemetry"))[0] == 202
        try:
            await until(lambda: not away.side.downstream.is_connected)
            await core.registry.update_device("acme", "d1", {"enabled": False}, None)
            async with the_services(core, bind=bind):
                await until(lambda: away.side.notifications.is_listening)
                assert (await post(away, "/telemetry"))[0] == 404
        finally:
            await up.__aexit__(None, None, None)


async def test_without_notifications_nothing_is_remembered_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifications, "BLIND_SECONDS", 0.05)
    monkeypatch.setattr(service_notifications, "ADDRESSES", ())
    async with a_core() as core:
        await a_fleet(core)
        async with the_services(core) as services:
            peer = replace(ADAPTER, address=services.address)
            side = remote_side(Settings(messaging=peer), Metrics(), Tracer(), instance="blind")
            async with AsyncExitStack() as up:
                for module in side.modules:
                    await up.enter_async_context(running(module))
                assert isinstance(await asked(side.registry.find_tenant, "acme"), Tenant)
                changes: list[RegistryChange] = []
                side.registry.on_change(changes.append)
                await until(lambda: side.registry.cached_tenant("acme") is None)
                assert [change.tenant_id for change in changes] == ["acme"]
