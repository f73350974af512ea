"""Northbound Kafka as a whole: the shipped gateway, an Apache Kafka broker, and clients that are not ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from gateway.config.hono import Kafka
from gateway.errors import GatewayError
from gateway.hono.kafka_consumer import RecordReader
from gateway.hono.kafka_library import BrokerUnavailable
from gateway.hono.kafka_offsets import Ticket
from gateway.hono.kafka_producer import KafkaProducer
from gateway.hono.kafka_properties import consumer_properties, producer_properties
from gateway.hono.kafka_records import Record as OurRecord
from gateway.observe.metrics import Metrics
from gateway.runtime.module import running
from tests.hono_rig import until
from tests.kafka_rig import Broker, Record, a_broker, leave, members, read_all
from tests.process import Twinspan, eventually, tool, twinspan
from tests.walk import DITTO_USER, REGISTRY_USER, curl

pytestmark = pytest.mark.e2e

TENANT = "DEFAULT_TENANT"
TELEMETRY, EVENTS = f"hono.telemetry.{TENANT}", f"hono.event.{TENANT}"
COMMANDS, RESPONSES = f"hono.command.{TENANT}", f"hono.command_response.{TENANT}"
DEVICE = ("-u", f"sensor1@{TENANT}", "-P", "hono-secret")
SENSOR = f"sensor1@{TENANT}:hono-secret"
LOAD = 4_000
"""Messages of a load test; it goes on until something is killed among them."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that makes no topics by itself."""
    folder = tmp_path_factory.mktemp("kafka")
    with a_broker(folder, **{"auto.create.topics.enable": "false"}) as broker:
        yield broker


def kafka_sets(broker: Broker) -> tuple[str, ...]:
    return (
        f"hono.kafka.bootstrap_servers={broker.bootstrap}",
        "hono.kafka.partitions=3",
        "hono.kafka.consumer_config={session.timeout.ms: 6000}",
    )


@pytest.fixture(scope="module")
def gateway(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twinspan]:
    data = tmp_path_factory.mktemp("gateway") / "data"
    with twinspan(data, "gateway", "--demo", sets=kafka_sets(broker)) as running_gateway:
        yield running_gateway


def mosquitto_pub(gateway: Twinspan, topic: str, text: str, *more: str) -> None:
    port = str(gateway.port("hono.mqtt"))
    words = [tool("mosquitto_pub"), "-p", port, *DEVICE, "-t", topic, "-m", text, *more]
    subprocess.run(words, check=True, timeout=30, capture_output=True)


def kcat(broker: Broker, topic: str) -> list[list[str]]:
    """Read a whole topic with kcat: key, headers, value; nothing of a topic that is not there yet."""
    form = "%k\t%h\t%s\n"
    words = [tool("kcat"), "-b", broker.bootstrap, "-C", "-t", topic, "-e", "-q", "-f", form]
    done = subprocess.run(words, check=False, timeout=30, capture_output=True, text=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


async def read_with_aiokafka(
    broker: Broker, topic: str, wanted: Callable[[Any], bool], seconds: float = 30.0
) -> Any:
    """Return the first record of a topic that is wanted."""
    reader = AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap,
        auto_offset_reset="earliest",
        metadata_max_age_ms=500,
    )
    await reader.start()
    try:
        async with asyncio.timeout(seconds):
            async for record in reader:
                if wanted(record):
                    return record
    finally:
        await reader.stop()
    raise AssertionError("aiokafka's iterator does not end")


async def command_with_aiokafka(broker: Broker, device: str, value: bytes, **more: str) -> None:
    writer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    await writer.start()
    try:
        headers = {"device_id": device, **{n.replace("_", "-"): v for n, v in more.items()}}
        pairs = [(name, text.encode()) for name, text in headers.items()]
        await writer.send_and_wait(COMMANDS, value, device.encode(), headers=pairs)
    finally:
        await writer.stop()


def has(name: str, value: bytes) -> Callable[[Any], bool]:
    return lambda record: (name, value) in record.headers


@pytest.mark.parametrize("qos", ["0", "1"])
def test_telemetry_over_mqtt_is_read_with_kcat(gateway: Twinspan, broker: Broker, qos: str) -> None:
    mosquitto_pub(gateway, "telemetry", f"qos {qos}", "-q", qos)

    def found() -> list[list[str]]:
        return [line for line in kcat(broker, TELEMETRY) if line[2] == f"qos {qos}"]

    [[key, headers, _]] = eventually(found)
    assert key == "4711"
    given = dict(pair.partition("=")[::2] for pair in headers.split(","))
    assert given["qos"] == qos
    assert given["content-type"] == "application/vnd.bumlux"
    assert given["importance"] == "high"
    assert (given["orig_adapter"], given["orig_address"]) == ("hono-mqtt", "telemetry")
    assert given["traceparent"].startswith("00-")
    assert abs(int(given["creation-time"]) - time.time() * 1_000) < 60_000
    assert "tenant_id" not in given


async def test_an_event_over_http_is_read_with_aiokafka(gateway: Twinspan, broker: Broker) -> None:
    url = gateway.url("hono.http", "/event?hono-ttl=30")
    answer = curl("POST", url, user=SENSOR, data={"alarm": "fire"})
    assert answer.status == 202
    record = await read_with_aiokafka(broker, EVENTS, lambda r: r.value == b'{"alarm": "fire"}')
    given = dict(record.headers)
    assert record.key == b"4711"
    assert given["ttl"] == b"30000"
    assert given["content-type"] == b"application/json"


async def test_a_command_goes_to_the_device_and_its_response_comes_back(
    gateway: Twinspan, broker: Broker
) -> None:
    port = str(gateway.port("hono.mqtt"))
    with subprocess.Popen(  # noqa: ASYNC220  it is waited for in threads
        [tool("mosquitto_sub"), "-p", port, *DEVICE, "-q", "1", "-t", "command///req/#",
         "-F", "%t %p", "-C", "2", "-W", "60"],
        stdout=subprocess.PIPE, text=True,
    ) as device:  # fmt: skip
        assert device.stdout is not None
        await read_with_aiokafka(broker, EVENTS, has("ttd", b"-1"))
        wanted = {"response_required": "true", "correlation_id": "c-77"}
        await command_with_aiokafka(broker, "4711", b"50", subject="setBrightness", **wanted)
        await command_with_aiokafka(broker, "4711", b"now", subject="blink")
        first = await asyncio.to_thread(device.stdout.readline)
        topic, _, payload = first.strip().partition(" ")
        assert payload == "50"
        assert topic.endswith("/setBrightness")
        second = await asyncio.to_thread(device.stdout.readline)
        assert second == "command///req//blink now\n"
        request_id = topic.split("/")[4]
    mosquitto_pub(gateway, f"command///res/{request_id}/200", '{"ok": true}', "-q", "1")
    record = await read_with_aiokafka(broker, RESPONSES, has("correlation-id", b"c-77"))
    given = dict(record.headers)
    assert (record.key, record.value) == (b"4711", b'{"ok": true}')
    assert (given["status"], given["tenant_id"]) == (b"200", TENANT.encode())
    ended = await read_with_aiokafka(broker, EVENTS, has("ttd", b"0"))
    assert dict(ended.headers)["content-type"].endswith(b"empty-notification")


async def test_a_device_on_http_gets_its_command_with_the_answer_to_its_upload(
    gateway: Twinspan, broker: Broker
) -> None:
    url = gateway.url("hono.http", "/telemetry?hono-ttd=20")
    upload = asyncio.create_task(
        asyncio.to_thread(curl, "POST", url, user=SENSOR, data={"i": "wait"})
    )
    await read_with_aiokafka(broker, TELEMETRY, has("ttd", b"20"))
    wanted = {"response_required": "true", "correlation_id": "c-88"}
    await command_with_aiokafka(broker, "4711", b"go", subject="drive", **wanted)
    answer = await upload
    assert (answer.status, answer.headers["hono-command"], answer.body) == (200, "drive", "go")
    request_id = answer.headers["hono-cmd-req-id"]
    path = f"/command/res/{request_id}?hono-cmd-status=204"
    assert curl("POST", gateway.url("hono.http", path), user=SENSOR, data="").status == 202
    record = await read_with_aiokafka(broker, RESPONSES, has("correlation-id", b"c-88"))
    assert dict(record.headers)["status"] == b"204"
    assert not record.value


@pytest.mark.parametrize(
    ("device", "subject", "status", "text"),
    [
        ("nosuch", "x", b"404", "device is disabled or not registered"),
        ("4711", "x", b"503", "no consumer available"),
        ("4711", "", b"400", "malformed command message"),
    ],
)
async def test_who_waits_for_a_response_hears_why_there_is_none(
    gateway: Twinspan, broker: Broker, device: str, subject: str, status: bytes, text: str
) -> None:
    del gateway
    correlation_id = f"f-{status.decode()}"
    await command_with_aiokafka(
        broker,
        device,
        b"",
        subject=subject,
        response_required="true",
        correlation_id=correlation_id,
        delivery_failure_notification_metadata_mine="42",
    )
    record = await read_with_aiokafka(
        broker, RESPONSES, has("correlation-id", correlation_id.encode())
    )
    given = dict(record.headers)
    assert (given["status"], json.loads(record.value)) == (status, {"error": text})
    assert given["delivery-failure-notification-metadata-mine"] == b"42"
    assert given["content-type"].endswith(b"delivery-failure-notification+json")


def test_a_connection_changes_the_twin_and_kafka_gets_the_message_too(
    gateway: Twinspan, broker: Broker
) -> None:
    def twin(feature: str) -> Any:
        path = f"/api/2/things/org.acme:4711/features/{feature}/properties/value"
        return curl("GET", gateway.url("ditto.http", path), user=DITTO_USER).json

    def said(feature: str, value: float) -> str:
        path = f"/features/{feature}/properties/value"
        topic = "org.acme/4711/things/twin/commands/modify"
        return json.dumps({"topic": topic, "headers": {}, "path": path, "value": value})

    ditto = "application/vnd.eclipse.ditto+json"
    for endpoint, feature, topic in (
        ("telemetry", "temperature", TELEMETRY),
        ("event", "humidity", EVENTS),
    ):
        text = said(feature, 23.5)
        url = gateway.url("hono.http", f"/{endpoint}")
        options = ("-H", "qos-level: 1")
        assert curl("POST", url, *options, user=SENSOR, data=text, content_type=ditto).status == 202
        eventually(lambda feature=feature: twin(feature) == 23.5)  # type: ignore[misc]
        assert any(line[2] == text for line in kcat(broker, topic))


def test_a_tenant_that_says_amqp_does_not_use_kafka(gateway: Twinspan, broker: Broker) -> None:
    url = gateway.url("hono.registry", "/v1")
    body = {"ext": {"messaging-type": "amqp"}}
    assert curl("POST", f"{url}/tenants/by-amqp", user=REGISTRY_USER, data=body).status == 201
    assert curl("POST", f"{url}/devices/by-amqp/d1", user=REGISTRY_USER, data={}).status == 201
    secret = {"type": "hashed-password", "auth-id": "a", "secrets": [{"pwd-plain": "pw"}]}
    path = f"{url}/credentials/by-amqp/d1"
    assert curl("PUT", path, user=REGISTRY_USER, data=[secret]).status == 204
    answer = curl(
        "POST", gateway.url("hono.http", "/telemetry"), user="a@by-amqp:pw", data={"x": 1}
    )
    assert (answer.status, answer.json) == (503, {"error": "no consumer available"})
    assert not any("by-amqp" in topic for topic in topics(broker))
    told = [line[2] for line in kcat(broker, "hono.notification.registry-tenant")]
    assert any(json.loads(text)["tenant-id"] == "by-amqp" for text in told)


def topics(broker: Broker) -> list[str]:
    done = subprocess.run(
        [tool("kcat"), "-b", broker.bootstrap, "-L", "-J"], check=True, capture_output=True
    )
    return [topic["topic"] for topic in json.loads(done.stdout)["topics"]]


def test_topics_are_made_as_settings_say(gateway: Twinspan, broker: Broker) -> None:
    mosquitto_pub(gateway, "telemetry", "make topics", "-q", "1")
    assert {TELEMETRY, EVENTS, COMMANDS, RESPONSES} <= set(topics(broker))
    done = subprocess.run(
        [tool("kcat"), "-b", broker.bootstrap, "-L", "-J", "-t", EVENTS],
        check=True,
        capture_output=True,
    )
    [topic] = json.loads(done.stdout)["topics"]
    assert len(topic["partitions"]) == 3


async def test_what_goes_to_a_topic_that_is_not_there_is_refused(broker: Broker) -> None:
    settings = Kafka(bootstrap_servers=broker.bootstrap)
    producer = KafkaProducer(producer_properties(settings), Metrics())
    answer: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
    async with running(producer):
        producer.send("event", OurRecord("hono.event.absent", b"k", b"v", []), answer.set_result)
        async with asyncio.timeout(20):
            assert isinstance(await answer, BrokerUnavailable)


# --- several readers ---------------------------------------------------------------------------------


class Reading:
    """A reader of commands in a group, as a module; every record has its outcome at once."""

    name = "reading"

    def __init__(self, broker: Broker, group: str) -> None:
        settings = Kafka(
            bootstrap_servers=broker.bootstrap,
            consumer_config={"group.id": group, "topic.metadata.refresh.interval.ms": "500"},
        )
        properties = consumer_properties(settings)
        self.values: list[bytes] = []
        self._reader = RecordReader(
            properties, r"^hono\.command\.shared", self._take, max_under_way=9
        )

    async def run(self, ready: Callable[[], None]) -> None:
        await self._reader.run(ready)

    def _take(self, message: Any, ticket: Ticket) -> None:
        self.values.append(message.value())
        self._reader.end(ticket)


async def test_readers_share_the_commands_and_hand_them_over_when_one_goes(broker: Broker) -> None:
    topic, group = "hono.command.shared", f"shared {time.time()}"
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    await asyncio.to_thread(admin.create_topics([NewTopic(topic, 4, 1)])[topic].result)
    sent: set[bytes] = set()

    async def put(rounds: int) -> None:
        writer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
        await writer.start()
        for _ in range(rounds):
            value = b"%d" % len(sent)
            await writer.send_and_wait(topic, value, b"device %d" % (len(sent) % 16))
            sent.add(value)
        await writer.stop()

    first, second, third = (Reading(broker, group) for _ in range(3))
    async with running(first):
        await put(50)
        await until(lambda: set(first.values) == sent)
        async with running(second):
            while not second.values:
                await put(10)
            await until(lambda: {*first.values, *second.values} == sent)
        await put(50)
        await until(lambda: {*first.values, *second.values} == sent)
    seen = [*first.values, *second.values]
    async with running(third):
        await put(1)
        await until(lambda: bool(third.values))
    # whatever had its outcome was committed when its reader gave it up
    assert len(third.values) == 1
    assert len(seen) - len(set(seen)) <= 18  # at most what two readers had under way


# --- faults ------------------------------------------------------------------------------------------


def test_while_the_broker_hangs_devices_are_told_and_afterwards_all_goes_on(
    gateway: Twinspan, broker: Broker
) -> None:
    def upload(endpoint: str, qos: str = "1") -> int:
        url = gateway.url("hono.http", f"/{endpoint}")
        return curl("POST", url, "-H", f"qos-level: {qos}", user=SENSOR, data={"x": 1}).status

    assert upload("event") == 202
    broker.pause()
    try:
        assert upload("telemetry") == 503
        assert upload("event") == 503
        assert upload("telemetry", "0") == 202
        assert curl("GET", gateway.url("ops.http", "/readiness")).status == 200
    finally:
        broker.resume()
    eventually(lambda: upload("event") == 202)


class Device:
    """A device that publishes numbers with QoS 1 and remembers which were acknowledged."""

    def __init__(self, gateway: Twinspan, topic: str, mark: str) -> None:
        self._topic, self._mark = topic, mark
        self._numbers: dict[int, int] = {}
        self._acks: list[int] = []
        client = self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=mark)
        client.username_pw_set(f"sensor1@{TENANT}", "hono-secret")
        client.max_inflight_messages_set(100)
        client.max_queued_messages_set(0)
        client.reconnect_delay_set(1, 1)
        client.on_publish = self._on_publish
        client.connect("127.0.0.1", gateway.port("hono.mqtt"))
        client.loop_start()

    def _on_publish(self, _c: object, _u: object, mid: int, _r: object, _p: object) -> None:
        self._acks.append(mid)  # on paho's thread, which holds a lock of its own

    def publish(self, number: int) -> None:
        info = self._client.publish(self._topic, f"{self._mark} {number}", qos=1)
        self._numbers[info.mid] = number

    @property
    def acknowledged(self) -> set[int]:
        return {self._numbers[mid] for mid in tuple(self._acks) if mid in self._numbers}

    def end(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def missing(self, records: list[Record]) -> set[int]:
        """What was acknowledged and is not in the topic."""
        values = (record.value or b"" for record in records)
        words = (value.decode(errors="replace").split(" ") for value in values)
        got = {int(two[1]) for two in words if len(two) == 2 and two[0] == self._mark}
        return self.acknowledged - got


def test_nothing_acknowledged_is_lost_when_the_broker_is_killed_under_load(
    gateway: Twinspan, broker: Broker
) -> None:
    logs = {"telemetry": TELEMETRY, "event": EVENTS}
    devices = {topic: Device(gateway, topic, f"broker-killed-{topic}") for topic in logs}
    for number in range(LOAD):
        for device in devices.values():
            device.publish(number)
    eventually(lambda: all(len(d.acknowledged) > LOAD // 8 for d in devices.values()))
    broker.kill()
    before = min(len(device.acknowledged) for device in devices.values())
    broker.start()
    for topic, device in devices.items():
        eventually(lambda device=device: len(device.acknowledged) == LOAD, seconds=60)  # type: ignore[misc]
        device.end()
        assert device.missing(read_all(broker.bootstrap, logs[topic], 30)) == set()
    assert before < LOAD


def test_nothing_acknowledged_is_lost_when_the_gateway_is_killed_under_load(
    broker: Broker, tmp_path: Path
) -> None:
    with twinspan(tmp_path / "data", "gateway", "--demo", sets=kafka_sets(broker)) as gateway:
        device = Device(gateway, "telemetry", "gateway-killed")
        for number in range(LOAD):
            device.publish(number)
        eventually(lambda: len(device.acknowledged) > LOAD // 4)
        gateway.kill()
    with contextlib.suppress(Exception):
        device.end()
    assert LOAD // 4 < len(device.acknowledged) < LOAD
    assert device.missing(read_all(broker.bootstrap, TELEMETRY, 30)) == set()


@contextlib.contextmanager
def listening(gateway: Twinspan, name: str, *, acknowledges: bool) -> Iterator[list[bytes]]:
    """A device that waits for commands, paho; its subscription is granted when the block begins."""
    device = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, manual_ack=not acknowledges)
    device.username_pw_set(f"sensor1@{TENANT}", "hono-secret")
    got: list[bytes] = []
    granted: list[object] = []
    device.on_message = lambda _c, _u, message: got.append(bytes(message.payload))
    device.on_subscribe = lambda *said: granted.append(said)

    def listen(*_: object) -> None:
        device.subscribe("command///req/#", 1)

    device.on_connect = listen
    device.connect("127.0.0.1", gateway.port("hono.mqtt"))
    device.loop_start()
    try:
        eventually(lambda: bool(granted))
        yield got
    finally:
        device.disconnect()
        device.loop_stop()


async def test_a_command_that_was_under_way_in_a_crash_comes_again(
    broker: Broker, tmp_path: Path
) -> None:
    # A command for a device that does not listen yet is refused, and comes no second time. So the reader
    # that crashed stays in its group, with its partitions, until the device listens at the next one.
    consumer = "{session.timeout.ms: 120000, group.id: g2}"
    sets = (*kafka_sets(broker), f"hono.kafka.consumer_config={consumer}")
    with twinspan(tmp_path / "data", "gateway", "--demo", sets=sets) as gateway:
        marked = f"crash {time.time()}".encode()
        with listening(gateway, "silent", acknowledges=False) as got:
            await command_with_aiokafka(broker, "4711", marked, subject="hold")
            await asyncio.to_thread(eventually, lambda: marked in got)
            [crashed] = members(broker.bootstrap, "g2")
            gateway.kill()
        gateway.start()
        with listening(gateway, "diligent", acknowledges=True) as got:
            assert marked not in got
            await leave(broker.bootstrap, "g2", crashed)
            await asyncio.to_thread(eventually, lambda: marked in got)
