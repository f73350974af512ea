"""Adapters in worker processes: unlike those of another Hono, their main process is ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import (
    BadRequest,
    ConnectionLimitExceeded,
    GatewayError,
    NoConsumer,
    NotProcessed,
)
from gateway.hono.downstream import Messaging
from gateway.hono.remote_services.usage import Share, SharedUsage, Total
from gateway.hono.worker_figures import Ledger
from gateway.model.json import JsonObject
from gateway.model.message import Adapter, Kind, Message, Principal
from gateway.model.ports import Done
from gateway.store.memory_events import MemoryEvents
from tests.hono_rig import Core, a_core, a_fleet, until
from tests.integration.remote_rig import Away, a_worker
from tests.integration.test_remote_commands import Link, a_command, listening, routed
from tests.integration.test_remote_services import asked, post
from tests.services_rig import Services, the_services


class Application:
    """A consumer with credit that keeps what it gets, written as applications get it."""

    credit = 100

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.outcomes: list[Done] = []
        self.holds = False
        self.says: GatewayError | None = None

    def send(self, message: Message, outcome: Done) -> None:
        raise AssertionError("telemetry of workers is passed on as it came")

    def send_encoded(self, payload: bytes, outcome: Done) -> None:
        self.got.append(payload)
        self.outcomes.append(outcome)
        if not self.holds:
            outcome(self.says)

    def send_event(self, event: object, outcome: object) -> None:
        raise AssertionError("no events here")


class Tap:
    """A connection that reads the tenant's telemetry."""

    def __init__(self) -> None:
        self.got: list[Message] = []

    def is_open(self, message: Message) -> bool:
        return message.kind is Kind.TELEMETRY

    def take(self, message: Message, done: Done) -> None:
        self.got.append(message)
        done(None)


@asynccontextmanager
async def main_process(core: Core, folder: Path) -> AsyncIterator[tuple[Services, Messaging]]:
    """The services on a Unix socket, before real messaging."""
    messaging = Messaging(MemoryEvents(), core.metrics)
    async with the_services(core, messaging, socket=str(folder / "s")) as services:
        yield services, messaging


async def qos(away: Away, level: int) -> tuple[int, str]:
    return await post(away, "/telemetry", "-H", f"QoS-Level: {level}")


@pytest.mark.parametrize("level", [0, 1])
async def test_telemetry_is_passed_on_as_the_worker_wrote_it(tmp_path: Path, level: int) -> None:
    async with (
        a_core() as core,
        main_process(core, tmp_path) as (services, messaging),
        a_worker(services) as away,
    ):
        await a_fleet(core)
        application = Application()
        messaging.add_consumer("acme", Kind.TELEMETRY, application)
        assert await qos(away, level) == (202, "")
        assert b'{"t": 21}' in application.got[-1]
        assert b"telemetry/acme" in application.got[-1]


@pytest.mark.parametrize("level", [0, 1])
async def test_without_a_consumer_devices_hear_so_whatever_their_qos(
    tmp_path: Path, level: int
) -> None:
    async with (
        a_core() as core,
        main_process(core, tmp_path) as (services, messaging),
        a_worker(services) as away,
    ):
        await a_fleet(core)
        status, text = await qos(away, level)
        assert (status, "no consumer available" in text) == (503, True)
        application = Application()
        leave = messaging.add_consumer("acme", Kind.TELEMETRY, application)
        assert (await qos(away, level))[0] == 202
        leave()
        assert (await qos(away, level))[0] == 503


async def test_qos_0_does_not_wait_for_the_consumer_and_qos_1_does(tmp_path: Path) -> None:
    async with (
        a_core() as core,
        main_process(core, tmp_path) as (services, messaging),
        a_worker(services) as away,
    ):
        await a_fleet(core)
        application = Application()
        messaging.add_consumer("acme", Kind.TELEMETRY, application)
        assert (await qos(away, 1))[0] == 202
        application.holds = True
        assert (await qos(away, 0))[0] == 202
        status, text = await qos(away, 1)
        assert (status, "consumer failed to indicate in time" in text) == (503, True)


async def test_the_consumer_s_word_comes_back_through_the_worker(tmp_path: Path) -> None:
    async with (
        a_core() as core,
        main_process(core, tmp_path) as (services, messaging),
        a_worker(services) as away,
    ):
        await a_fleet(core)
        application = Application()
        messaging.add_consumer("acme", Kind.TELEMETRY, application)
        assert (await qos(away, 1))[0] == 202
        for error, status in ((BadRequest("no such unit"), 400), (NotProcessed(), 503)):
            application.says = error
            assert (await qos(away, 1))[0] == status


async def test_a_connection_that_reads_telemetry_gets_it_too(tmp_path: Path) -> None:
    async with (
        a_core() as core,
        main_process(core, tmp_path) as (services, messaging),
        a_worker(services) as away,
    ):
        await a_fleet(core)
        tap = Tap()
        end = messaging.add_tap(tap)
        assert (await qos(away, 1))[0] == 202
        (message,) = tap.got
        assert (message.device, message.payload, message.qos) == ("d1", b'{"t": 21}', 1)
        end()
        assert (await qos(away, 1))[0] == 503


async def test_data_volume_is_counted_once_for_all_workers(tmp_path: Path) -> None:
    async with (
        a_core() as core,
        the_services(core, socket=str(tmp_path / "s")) as services,
        a_worker(services, "w0") as one,
        a_worker(services, "w1") as two,
    ):
        volume: JsonObject = {"effective-since": "2020-01-01T00:00:00Z", "max-bytes": 20}
        await core.tenant("acme", {"resource-limits": {"data-volume": volume}})
        await core.device("acme", "d1", auth_id="sensor1")
        assert (await qos(one, 1))[0] == 202
        assert (await qos(two, 1))[0] == 202
        for away in (one, two):
            for level in (0, 1):
                assert (await qos(away, level))[0] == 429
        assert core.usage.used(core.registry.cached_tenant("acme"))[0] == 18  # type: ignore[arg-type]


async def test_connections_are_limited_over_all_workers(tmp_path: Path) -> None:
    async with a_core() as core, the_services(core, socket=str(tmp_path / "s")) as services:
        limits: JsonObject = {"resource-limits": {"max-connections": 2}}
        await core.tenant("acme", limits)
        await core.device("acme", "d1", auth_id="sensor1")
        ledger = Ledger(core.registry, core.usage)
        usages = SharedUsage(), SharedUsage()
        who = Principal("acme", "d1", "sensor1")
        async with (
            a_worker(services, "w0", usages[0]) as one,
            a_worker(services, "w1", usages[1]) as two,
        ):

            def exchange() -> None:
                for number, away in enumerate((one, two)):
                    ledger.take(number, usages[number].shares(away.side.connections.limited()))
                for number in (0, 1):
                    usages[number].totals = ledger.totals(number)

            first = await asked(one.side.connections.admit, who, Adapter.MQTT, print)
            second = await asked(two.side.connections.admit, who, Adapter.MQTT, print)
            exchange()
            for away in (one, two):
                refused = await asked(away.side.connections.admit, who, Adapter.MQTT, print)
                assert isinstance(refused, ConnectionLimitExceeded)
            first.release()
            exchange()
            again = await asked(two.side.connections.admit, who, Adapter.MQTT, print)
            assert not isinstance(again, Exception)
            ledger.gone(1)
            usages[0].totals = ledger.totals(0)
            assert usages[0].connected_elsewhere("acme") == 0
            second.release()
            again.release()


async def test_connection_time_is_added_up_over_all_workers(tmp_path: Path) -> None:
    async with a_core() as core:
        quota: JsonObject = {"effective-since": "2020-01-01T00:00:00Z", "max-minutes": 1}
        await core.tenant("acme", {"resource-limits": {"connection-duration": quota}})
        tenant = await asked(core.registry.find_tenant, "acme")
        ledger, mine = Ledger(core.registry, core.usage), SharedUsage()
        ledger.take(1, {"acme": Share(seconds=20.0, connections=1, open_seconds=10.0)})
        mine.add_seconds(tenant, 15.0)
        ledger.take(0, mine.shares({}))
        mine.totals = ledger.totals(0)
        assert mine.totals["acme"] == Total(0.0, 35.0, 15.0, Share(0.0, 1, 10.0))
        assert not mine.duration_exceeded(tenant, 14.0)
        assert mine.duration_exceeded(tenant, 16.0)
        mine.add_seconds(tenant, 3.0)  # not told yet
        assert mine.duration_exceeded(tenant, 14.0)
        ledger.take(0, mine.shares({}))
        ledger.gone(1)  # its connections have ended with it
        mine.totals = ledger.totals(0)
        assert mine.totals["acme"].used_seconds == 48.0


async def test_what_a_worker_registered_ends_with_it(tmp_path: Path) -> None:
    async with a_core() as core, the_services(core, socket=str(tmp_path / "s")) as services:
        await a_fleet(core)
        async with a_worker(services) as away:
            link = Link()
            await listening(core, away, link)
            assert await routed(core, a_command()) is None
        await until(lambda: core.commands.newest_link("acme", "d1") is None)
        assert isinstance(await routed(core, a_command()), NoConsumer)


async def test_who_watches_a_tenant_sees_what_workers_send(tmp_path: Path) -> None:
    async with (
        a_core() as core,
        main_process(core, tmp_path) as (services, messaging),
        a_worker(services) as away,
    ):
        await a_fleet(core)
        watcher, end = core.traffic.watch("acme", frozenset(), None)
        messaging.add_tap(Tap())
        assert (await qos(away, 1))[0] == 202
        assert (await post(away, "/event"))[0] == 202
        _, seen = await watcher.lines()
        assert [(s.kind.value, s.device, s.status) for s in seen] == [
            ("telemetry", "d1", 202),
            ("event", "d1", 202),
        ]
        assert (seen[0].adapter, seen[0].payload) == ("hono-http", {"t": 21})
        end()
