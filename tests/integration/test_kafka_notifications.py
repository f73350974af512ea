"""Registry changes told on Kafka."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.hono.kafka_notifications import KafkaNotifications
from gateway.hono.kafka_records import Record
from gateway.model.ports import Done
from tests.hono_rig import Core, a_core, until

AT = 1_700_000_000.5


class Sender:
    """Keeps records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def send(self, kind: str, record: Record, done: Done) -> None:
        assert kind == "notification"
        self.records.append(record)
        done(None)

    def send_and_forget(self, kind: str, record: Record, done: Done) -> None:
        raise AssertionError("a notification is worth a broker's word")


class Rig:
    def __init__(self, core: Core) -> None:
        self.core, self.sender = core, Sender()
        notifications = KafkaNotifications(core.registry, self.sender, clock=lambda: AT)
        core.registry.on_change(notifications.on_change)

    async def last(self, count: int) -> tuple[str, bytes, Any]:
        await until(lambda: len(self.sender.records) == count)
        record = self.sender.records[-1]
        assert record.headers == [("content-type", b"application/json")]
        return record.topic, record.key, json.loads(record.value or b"")


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with a_core() as core:
        yield Rig(core)


def told(kind: str, **more: Any) -> dict[str, Any]:
    said = {"type": kind, "source": "device-registry", "creation-time": "2023-11-14T22:13:20.500Z"}
    return said | {name.replace("_", "-"): value for name, value in more.items()}


async def test_a_tenant_s_life_is_told(rig: Rig) -> None:
    topic = "hono.notification.registry-tenant"
    of_acme = {"tenant_id": "acme", "enabled": True}
    quiet = {**of_acme, "invalidate_cache_on_update": False}
    await rig.core.tenant("acme")
    expected: Any = told("tenant-change-v1", change="CREATE", **quiet)
    assert await rig.last(1) == (topic, b"acme", expected)
    body: Any = {"enabled": False, "ext": {"invalidate-cache-on-update": True}}
    await rig.core.registry.update_tenant("acme", body, None)
    off = {"tenant_id": "acme", "enabled": False, "invalidate_cache_on_update": True}
    assert await rig.last(2) == (topic, b"acme", told("tenant-change-v1", change="UPDATE", **off))
    await rig.core.registry.delete_tenant("acme", None)
    assert (await rig.last(3))[2]["change"] == "DELETE"


async def test_changes_of_devices_and_credentials_are_told_with_the_device_as_key(rig: Rig) -> None:
    topic = "hono.notification.registry-device"
    await rig.core.tenant("acme")
    await rig.last(1)
    await rig.core.device("acme", "d1", auth_id="sensor1")
    names = {"tenant_id": "acme", "device_id": "d1"}
    made = told("device-change-v1", change="CREATE", enabled=True, **names)
    await until(lambda: len(rig.sender.records) == 3)
    record = rig.sender.records[1]
    assert (record.topic, record.key, json.loads(record.value or b"")) == (topic, b"d1", made)
    expected = told("credentials-change-v1", **names)
    assert await rig.last(3) == (topic, b"d1", expected)


async def test_the_end_of_all_devices_is_told_once(rig: Rig) -> None:
    await rig.core.tenant("acme")
    await rig.core.device("acme", "d1")
    await rig.last(2)
    await rig.core.registry.delete_devices("acme")
    topic = "hono.notification.registry-device"
    expected = told("all-devices-of-tenant-deleted-v1", tenant_id="acme")
    assert await rig.last(3) == (topic, b"acme", expected)
