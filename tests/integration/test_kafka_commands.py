"""Commands from Kafka: order per device, outcomes, offsets; from a real server where it matters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.config.hono import Kafka
from gateway.errors import DeviceNotFound, GatewayError, NoConsumer, NotProcessed, Undeliverable
from gateway.hono.kafka_commands import KafkaCommands
from gateway.hono.kafka_consumer import RecordReader
from gateway.hono.kafka_messaging import KafkaTenants
from gateway.hono.kafka_offsets import Ticket
from gateway.hono.kafka_properties import consumer_properties
from gateway.model.message import Adapter, Command, CommandResponse, MessagingType
from gateway.model.ports import DeviceLink, Done
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from tests.hono_rig import a_core, until
from tests.kafka_rig import mock_cluster, write

NOW = 1_700_000_000.0


class Routing:
    """Command routing that the test plays: answers by the command's name, or holds the answers."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.held: dict[str, Done] = {}
        self.verdicts: dict[str, GatewayError | None] = {}

    def route(self, command: Command, done: Done) -> None:
        self.commands.append(command)
        if command.name in self.verdicts:
            done(self.verdicts[command.name])
        elif command.name == "raise":
            raise RuntimeError("a bug")
        else:
            self.held[command.name] = done

    def subscribe(
        self,
        tenant: str,
        device: str,
        link: DeviceLink,
        *,
        adapter: Adapter,
        gateway: str | None = None,
        announce: bool = True,
        for_its_devices: bool = True,
    ) -> Any:
        raise AssertionError("Kafka subscribes nobody")

    def respond(self, response: CommandResponse, done: Done) -> None:
        raise AssertionError("Kafka answers nothing for devices")

    @property
    def names(self) -> list[str]:
        return [command.name for command in self.commands]


class Responses:
    """Keeps what is sent; answers with `error` or holds the answers."""

    def __init__(self) -> None:
        self.sent: list[CommandResponse] = []
        self.error: GatewayError | None = None

    def owns(self, tenant: str, reply_id: str) -> bool:
        return not reply_id

    def take(self, response: CommandResponse, done: Done) -> None:
        self.sent.append(response)
        done(self.error)


class Message:
    """A record as the library hands it out."""

    def __init__(self, device: str, name: str | None, offset: int, **headers: bytes) -> None:
        self._key = device.encode()
        self._offset = offset
        given = {"device_id": headers.pop("device_id", device.encode())}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        if name is not None:
            given["subject"] = name.encode()
        self._headers = list(given.items())

    def topic(self) -> str:
        return "hono.command.acme"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_700_000_000_000

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes:
        return b"on"

    def headers(self) -> list[tuple[str, bytes]]:
        return self._headers


class Rig:
    """The room of commands without a broker: the test puts records in."""

    def __init__(self, tenants: KafkaTenants, bootstrap: str = "127.0.0.1:1", **more: Any) -> None:
        settings = Kafka(bootstrap_servers=bootstrap, **more)
        self.routing, self.responses, self.metrics = Routing(), Responses(), Metrics()
        self.commands = KafkaCommands(
            settings,
            consumer_properties(settings),
            self.routing,
            self.responses,
            tenants,
            self.metrics,
            clock=lambda: NOW,
        )
        self.offset = 0

    def put(self, device: str, name: str | None, **headers: bytes) -> Ticket:
        message = Message(device, name, self.offset, **headers)
        ticket = self.commands._reader._offsets.begin(("hono.command.acme", 0), self.offset)
        self.commands._reader._read += 1
        self.offset += 1
        self.commands.take(message, ticket)  # type: ignore[arg-type]
        return ticket

    def count(self, outcome: str) -> float:
        name = "twinspan_kafka_commands_total"
        return self.metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0

    @property
    def committable(self) -> list[int]:
        return [offset for _, offset in self.commands._reader._positions]


WANTED = {"response_required": b"true", "correlation_id": b"c-1"}


@pytest.fixture
async def tenants() -> AsyncIterator[KafkaTenants]:
    async with a_core() as core:
        await core.tenant("acme")
        yield KafkaTenants(core.registry, MessagingType.KAFKA)


@pytest.fixture
def rig(tenants: KafkaTenants) -> Rig:
    return Rig(tenants)


async def test_a_device_s_commands_are_routed_one_after_another(rig: Rig) -> None:
    for name in ("a", "b", "c"):
        rig.put("d1", name)
    rig.put("d2", "other")
    assert rig.routing.names == ["a", "other"]
    rig.routing.held["a"](None)
    assert rig.routing.names == ["a", "other", "b"]
    rig.routing.held["b"](NoConsumer())
    rig.routing.held["c"](None)
    assert (rig.count("accepted"), rig.count("released")) == (2, 1)


async def test_offsets_follow_the_outcomes(rig: Rig) -> None:
    rig.put("d1", "a")
    rig.put("d2", "b")
    rig.routing.held["b"](None)
    assert rig.committable == []
    rig.routing.held["a"](None)
    assert rig.committable == [2]
    assert rig.commands._reader.under_way == 0


async def test_a_long_line_of_commands_that_end_at_once_is_no_deep_recursion(rig: Rig) -> None:
    rig.put("d1", "first")
    rig.routing.verdicts["next"] = None
    for _ in range(3_000):
        rig.put("d1", "next")
    rig.routing.held["first"](None)
    assert rig.count("accepted") == 3_001
    assert rig.commands._lines == {}


async def test_a_command_that_waited_longer_than_routing_may_take_is_released(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.hono.kafka_commands.ROUTING_SECONDS", -1.0)
    rig.put("d1", "late", **WANTED)
    assert rig.routing.names == []
    assert rig.count("released") == 1
    assert rig.responses.sent[0].status == 503


async def test_who_wants_a_response_is_told_of_a_failure_with_the_own_metadata(rig: Rig) -> None:
    rig.routing.verdicts["blink"] = DeviceNotFound()
    metadata = {"delivery_failure_notification_metadata_x": b"mine"}
    rig.put("d1", "blink", **WANTED, **metadata)
    [sent] = rig.responses.sent
    assert (sent.tenant, sent.device, sent.reply_id) == ("acme", "d1", "")
    assert (sent.correlation_id, sent.status, sent.at) == ("c-1", 404, NOW)
    assert sent.content_type == "application/vnd.eclipse-hono-delivery-failure-notification+json"
    assert json.loads(sent.payload) == {"error": "device is disabled or not registered"}
    assert sent.properties == {"delivery-failure-notification-metadata-x": "mine"}


async def test_who_sent_a_one_way_command_hears_nothing(rig: Rig) -> None:
    rig.routing.verdicts["blink"] = NoConsumer()
    rig.put("d1", "blink")
    rig.put("d1", "blink", correlation_id=b"c-1")
    assert rig.responses.sent == []
    assert rig.count("released") == 2


async def test_notifications_can_be_switched_off(tenants: KafkaTenants) -> None:
    rig = Rig(tenants, delivery_failures=False)
    rig.routing.verdicts["blink"] = NoConsumer()
    rig.put("d1", "blink", **WANTED)
    assert rig.responses.sent == []
    assert rig.committable == [1]


async def test_a_malformed_command_is_rejected_with_honos_text(rig: Rig) -> None:
    rig.put("d1", None, **WANTED)
    [sent] = rig.responses.sent
    assert (sent.status, json.loads(sent.payload)) == (400, {"error": "malformed command message"})
    rig.put("d1", "blink", response_required=b"true")
    assert len(rig.responses.sent) == 1
    assert rig.count("rejected") == 2
    assert rig.routing.commands == []


async def test_an_expired_command_is_passed_over_in_silence(rig: Rig) -> None:
    created = int((NOW - 10) * 1_000)
    rig.put("d1", "old", **WANTED, ttl=b"9000", creation_time=b"%d" % created)
    assert (rig.routing.commands, rig.responses.sent) == ([], [])
    assert rig.count("expired") == 1
    rig.put("d1", "young", **WANTED, ttl=b"11000", creation_time=b"%d" % created)
    assert rig.routing.names == ["young"]


async def test_a_record_without_its_device_as_key_is_dropped_and_counted(rig: Rig) -> None:
    rig.put("d1", "blink", device_id=b"other")
    assert (rig.count("malformed"), rig.committable) == (1, [1])


async def test_a_notification_that_cannot_be_sent_does_not_stop_the_line(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.routing.verdicts["blink"] = NotProcessed()
    rig.responses.error = Undeliverable()
    rig.put("d1", "blink", **WANTED)
    assert rig.committable == [1]
    assert "delivery failure notification not sent" in caplog.messages


async def test_a_bug_in_routing_ends_one_command_only(rig: Rig) -> None:
    rig.put("d1", "raise", **WANTED)
    rig.put("d1", "next")
    assert rig.responses.sent[0].status == 500
    assert rig.routing.names == ["raise", "next"]


# --- with a server -----------------------------------------------------------------------------------


@pytest.fixture
def bootstrap() -> Iterator[str]:
    with mock_cluster() as servers:
        yield servers


@asynccontextmanager
async def reading(tenants: KafkaTenants, bootstrap: str, **more: Any) -> AsyncIterator[Rig]:
    rig = Rig(tenants, bootstrap, **more)
    async with running(rig.commands):
        yield rig


async def put(bootstrap: str, name: str, tenant: str = "acme", device: str = "d1") -> None:
    headers = {"device_id": device.encode(), "subject": name.encode()}
    await asyncio.to_thread(write, bootstrap, f"hono.command.{tenant}", device, b"on", headers)


async def test_commands_of_all_tenants_are_read_in_order(
    tenants: KafkaTenants, bootstrap: str
) -> None:
    for name in ("a", "b", "c"):
        await put(bootstrap, name)
    await put(bootstrap, "x", "other")
    async with reading(tenants, bootstrap) as rig:
        rig.routing.verdicts = dict.fromkeys("abcx")
        await until(lambda: len(rig.routing.commands) == 4)
        assert [c.name for c in rig.routing.commands if c.tenant == "acme"] == ["a", "b", "c"]
        assert {c.tenant for c in rig.routing.commands} == {"acme", "other"}


async def test_no_more_are_fetched_while_too_many_have_no_outcome(
    tenants: KafkaTenants, bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    store = RecordReader._store

    def noted(reader: RecordReader, consumer: Any) -> None:
        rounds.append(reader.under_way)
        store(reader, consumer)

    monkeypatch.setattr(RecordReader, "_store", noted)
    for number in range(6):
        await put(bootstrap, f"n{number}", device=f"d{number}")
    async with reading(tenants, bootstrap, max_commands=2) as rig:
        await until(lambda: len(rig.routing.commands) == 2)
        rounds.clear()
        await until(lambda: len(rounds) >= 10)
        assert set(rounds) == {2}
        assert len(rig.routing.commands) == 2
        for name in tuple(rig.routing.held):
            rig.routing.held.pop(name)(None)
        await until(lambda: len(rig.routing.commands) == 4)


async def test_the_topic_of_a_tenant_who_listens_is_made_and_read_soon(
    tenants: KafkaTenants, bootstrap: str
) -> None:
    slow = {"topic.metadata.refresh.interval.ms": "600000"}
    async with reading(tenants, bootstrap, consumer_config=slow) as rig:
        rig.commands.expect("newcomer")
        await put(bootstrap, "hello", "newcomer")
        await until(lambda: "hello" in rig.routing.names)
