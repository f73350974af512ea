"""Registry changes on their way to adapters elsewhere: all of them arrive, or who missed some knows it."""

from __future__ import annotations

import asyncio

import pytest

from gateway.hono import service_notifications
from gateway.model.registry import Tenant
from tests.hono_rig import a_core, until
from tests.integration.remote_rig import services_and_adapters
from tests.integration.test_remote_services import asked


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
