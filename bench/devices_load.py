"""The load of devices over one protocol, and the application that takes what they send.

Reads a JSON object from standard input: `protocol`, `qos`, `devices`, `messages`, `window` (messages between
devices and application), `port`, `pids` of the servers whose CPU time counts, `tenant` (null where there
are no logins), `topic`, `only` (the number of the one device that all are, over CoAP), and `sink`: null where
the devices' answers are the end, else `kind` amqp, mqtt or kafka with what `SINKS` asks for. Sends a part of
the messages to warm, then all, and prints `{"messages", "seconds", "cpu"}`.

MQTT and AMQP devices send in bursts without waiting for answers; over HTTP and CoAP a device has one request
under way. QoS 0 over MQTT and AMQP has no answers: there what has arrived makes room for more.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast

from bench.amqp_sender import AmqpSender
from bench.amqp_sink import Sink
from bench.http_load import body_size
from bench.mqtt_load import Client, connect, subscribe
from gateway.runtime import process
from gateway.wire.coap import codec, options
from gateway.wire.coap.codec import CON, NON, PUT, Message

PAYLOAD = b'{"temperature": 21.5, "humidity": 40, "note": "' + b"x" * 101 + b'"}'
PASSWORD = "pw"
BURST = 50
WARM = 5
"""One part in so many is sent before the measurement."""
SECONDS = 120.0
KAFKA_POLL = 0.005


class Progress:
    """How far a load is: told by devices and by the application."""

    def __init__(self) -> None:
        self.answered = 0
        self.arrived = 0
        self._moved = asyncio.Event()

    def answer(self, count: int) -> None:
        self.answered += count
        self._moved.set()

    def arrive(self, total: int) -> None:
        self.arrived = total
        self._moved.set()

    async def moved(self) -> None:
        """Wait until something has happened since the last time."""
        await self._moved.wait()
        self._moved.clear()


class Device(Protocol):
    """One connection; `room` is how many messages it takes now."""

    @property
    def room(self) -> int: ...

    def send(self, count: int) -> None: ...


Connect = Callable[[dict[str, Any], int, Progress], Awaitable[Device]]


# --- devices -----------------------------------------------------------------------------


class MqttDevice:
    """MQTT 3.1.1."""

    room = BURST

    def __init__(self, client: Client, topic: str, qos: int) -> None:
        self._client = client
        self._topic = topic
        self._qos = qos

    def send(self, count: int) -> None:
        self._client.publish(self._topic, [PAYLOAD] * count, self._qos)


async def mqtt_device(spec: dict[str, Any], number: int, _progress: Progress) -> Device:
    user = f"d{number}@{spec['tenant']}" if spec["tenant"] else None
    greeting = connect(f"d{number}", user, PASSWORD)
    return MqttDevice(await mqtt_client(spec["port"], greeting), spec["topic"], spec["qos"])


async def mqtt_client(
    port: int, greeting: bytes, on_publish: Callable[[str, bytes], None] | None = None
) -> Client:
    """A connection that was let in."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(
        lambda: Client(greeting, on_publish), "127.0.0.1", port
    )
    await client.connected
    return client


class AmqpDevice:
    """AMQP 1.0, on one link."""

    def __init__(self, sender: AmqpSender) -> None:
        self._sender = sender
        self.send = sender.send

    @property
    def room(self) -> int:
        return self._sender.credit


async def amqp_device(spec: dict[str, Any], number: int, progress: Progress) -> Device:
    user = f"d{number}@{spec['tenant']}:{PASSWORD}" if spec["tenant"] else None
    loop = asyncio.get_running_loop()
    _, sender = await loop.create_connection(
        lambda: AmqpSender(user, spec["topic"], PAYLOAD, not spec["qos"], progress.answer),
        "127.0.0.1",
        spec["port"],
    )
    await sender.ready
    return AmqpDevice(sender)


class HttpDevice(asyncio.Protocol):
    """HTTP/1.1 with one request under way."""

    def __init__(self, spec: dict[str, Any], number: int, progress: Progress) -> None:
        login = b64encode(f"d{number}@{spec['tenant']}:{PASSWORD}".encode()).decode()
        lines = ["POST /telemetry HTTP/1.1", "Host: bench", f"Authorization: Basic {login}"]
        lines += ["Content-Type: application/json", f"QoS-Level: {spec['qos']}"]
        lines += [f"Content-Length: {len(PAYLOAD)}", "", ""]
        self._request = "\r\n".join(lines).encode() + PAYLOAD
        self._progress = progress
        self._transport: asyncio.Transport
        self._buffer = b""
        self.room = 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, count: int) -> None:
        self.room -= count
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or len(buffer) < end + 4 + body_size(buffer, end):
            self._buffer = buffer
            return
        self._buffer = b""
        if buffer[9:12] != b"202":
            raise RuntimeError(buffer[:300].decode(errors="replace"))
        self.room += 1
        self._progress.answer(1)


async def http_device(spec: dict[str, Any], number: int, progress: Progress) -> Device:
    loop = asyncio.get_running_loop()
    _, device = await loop.create_connection(
        lambda: HttpDevice(spec, number, progress), "127.0.0.1", spec["port"]
    )
    return device


class CoapDevice(asyncio.DatagramProtocol):
    """CoAP over UDP with one request under way."""

    def __init__(self, spec: dict[str, Any], number: int, progress: Progress) -> None:
        device = b"d%d" % spec.get("only", number)
        segments = [b"telemetry", spec["tenant"].encode(), device]
        path = tuple((options.URI_PATH, segment) for segment in segments)
        request = Message(
            type=CON if spec["qos"] else NON,
            code=PUT,
            mid=0,
            token=b"tk",
            options=(*path, (options.CONTENT_FORMAT, b"\x32")),
            payload=PAYLOAD,
        )
        self._data = bytearray(codec.encode(request))
        self._mid = random.getrandbits(16)  # an earlier load may have had this very port
        self._progress = progress
        self._transport: asyncio.DatagramTransport
        self.room = 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def send(self, count: int) -> None:
        self.room -= count
        self._mid = (self._mid + 1) & 0xFFFF
        self._data[2:4] = self._mid.to_bytes(2, "big")
        self._transport.sendto(bytes(self._data))

    def datagram_received(self, data: bytes, _address: object) -> None:
        kind, mid = codec.type_and_mid(data)
        if data[1] == codec.EMPTY:  # the answer comes later
            return
        if data[1] >> 5 != 2:
            raise RuntimeError(f"expected 2.04, got {data!r}")
        if kind == CON:
            self._transport.sendto(codec.empty(codec.ACK, mid))
        self.room += 1
        self._progress.answer(1)


async def coap_device(spec: dict[str, Any], number: int, progress: Progress) -> Device:
    loop = asyncio.get_running_loop()
    _, device = await loop.create_datagram_endpoint(
        lambda: CoapDevice(spec, number, progress), remote_addr=("127.0.0.1", spec["port"])
    )
    return device


PROTOCOLS: dict[str, Connect] = {
    "mqtt": mqtt_device,
    "amqp": amqp_device,
    "http": http_device,
    "coap": coap_device,
}


# --- applications -----------------------------------------------------------------------------


async def amqp_sink(spec: dict[str, Any], progress: Progress) -> None:
    """A receiver that accepts: `port`, `address`, `user` (name:password, null for anonymous)."""
    streams = await asyncio.open_connection("127.0.0.1", spec["port"], limit=1 << 20)
    sink = Sink(*streams, spec["user"], progress.arrive)
    await sink.attach(spec["address"])
    await sink.run(1 << 62)


async def mqtt_sink(spec: dict[str, Any], progress: Progress) -> None:
    """A subscriber: `port`, `topic`, `qos`."""

    def take(_topic: str, _payload: bytes) -> None:
        progress.arrive(progress.arrived + 1)

    client = await mqtt_client(spec["port"], connect("application"), take)
    client.transport.write(subscribe(spec["topic"], spec["qos"]))
    await client.subscribed
    await asyncio.Event().wait()


async def kafka_sink(spec: dict[str, Any], progress: Progress) -> None:
    """Who asks the broker how many records a topic has: `bootstrap`, `topic`."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    reader = Consumer({"bootstrap.servers": spec["bootstrap"], "group.id": "bench"})

    places: list[TopicPartition] = []

    def count() -> int:
        if not places:  # the first message makes the topic
            found = reader.list_topics(spec["topic"], timeout=10).topics[spec["topic"]].partitions
            places.extend(TopicPartition(spec["topic"], number) for number in found)
        return sum(reader.get_watermark_offsets(place, timeout=10)[1] for place in places)

    before = await asyncio.to_thread(count)
    while True:
        with suppress(KafkaException):  # a new topic has no leader yet
            progress.arrive(await asyncio.to_thread(count) - before)
        await asyncio.sleep(KAFKA_POLL)


SINKS = {"amqp": amqp_sink, "mqtt": mqtt_sink, "kafka": kafka_sink}


# --- the load -----------------------------------------------------------------------------


class Load:
    """Devices that send, in turns, as long as there is room between them and the end."""

    def __init__(self, spec: dict[str, Any], progress: Progress, devices: list[Device]) -> None:
        self._window = spec["window"]
        self._burst = max(1, min(BURST, spec["window"] // len(devices)))
        self._is_answered = spec["protocol"] in ("http", "coap")
        self._has_sink = spec["sink"] is not None
        self._progress = progress
        self._devices = devices
        self._turn = 0
        self._sent = 0

    @property
    def _done(self) -> int:
        progress = self._progress
        if self._is_answered and self._has_sink:
            return min(progress.answered, progress.arrived)
        return progress.arrived if self._has_sink else progress.answered

    async def run(self, messages: int) -> None:
        """Send so many more, and wait until all have come to their end."""
        goal = self._sent + messages
        async with asyncio.timeout(SECONDS):
            while self._done < goal:
                self._send(goal)
                await self._progress.moved()

    def _send(self, goal: int) -> None:
        """Fill the room there is, a device after the other."""
        full = 0
        while full < len(self._devices):
            room = min(self._window - (self._sent - self._done), goal - self._sent)
            if room <= 0:
                return
            device = self._devices[self._turn]
            self._turn = (self._turn + 1) % len(self._devices)
            count = min(room, self._burst, device.room)
            if count > 0:
                device.send(count)
                self._sent += count
                full = 0
            else:
                full += 1


def cpu(pids: list[int]) -> float:
    """CPU seconds of all threads of these processes."""
    spent = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(FileNotFoundError):
                spent += int(task.read_text().split()[0])
    return spent / 1e9


async def run(spec: dict[str, Any]) -> dict[str, float]:
    """Connect all, warm, measure."""
    progress = Progress()
    sink = spec["sink"]
    async with asyncio.TaskGroup() as group:
        taking = sink and group.create_task(SINKS[sink["kind"]](sink, progress))
        make = PROTOCOLS[spec["protocol"]]
        devices = [await make(spec, number, progress) for number in range(spec["devices"])]
        await asyncio.sleep(spec.get("settle", 0.2))
        load = Load(spec, progress, devices)
        await load.run(max(spec["messages"] // WARM, spec["devices"]))
        before, started = cpu(spec["pids"]), time.perf_counter()
        await load.run(spec["messages"])
        seconds, spent = time.perf_counter() - started, cpu(spec["pids"]) - before
        if taking is not None:
            taking.cancel()
    return {"messages": spec["messages"], "seconds": seconds, "cpu": spent}


async def main() -> None:
    print(json.dumps(await run(json.load(sys.stdin))))


if __name__ == "__main__":
    process.run(main())
