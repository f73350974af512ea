"""The load of the command benchmark: an application that sends commands, and devices that answer them.

Reads a JSON object from standard input: `protocol`, `devices`, `commands` (for each device), `port` of the
devices, `tenant`, `application` (port of AMQP, null with a broker between MQTT clients), `user`, `pids`. Each
device has one command under way: the next one is sent when the answer to the last has come and, where a
device has to ask for commands, when it has asked. Prints `{"commands", "seconds", "cpu", "p50", "p99"}`,
times in milliseconds from sending a command to having its response.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import sys
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import Any, cast

from bench.amqp_sender import AmqpSender
from bench.amqp_sink import Sink, message_of
from bench.devices_load import PASSWORD, SECONDS, cpu, mqtt_client
from bench.http_load import body_size
from bench.mqtt_load import Client, connect, subscribe
from gateway.runtime import process
from gateway.wire.amqp.message import AmqpMessage, Data, Properties, encode_message
from gateway.wire.amqp.values import Int
from gateway.wire.coap import codec, options
from gateway.wire.coap.codec import CON, Message

BODY = b'{"brightness": 87}'
WARM = 5
"""Commands to each device before the measurement."""
TTD = 30
NAME = "setBrightness"
_DEVICE = re.compile(rb"corr-(\d{4})")


class Round:
    """The commands to one device, one after the other."""

    def __init__(self, number: int, send: Callable[[int], None]) -> None:
        self._number = number
        self._send = send
        self._left = 0
        self._sent = 0.0
        self._done: asyncio.Future[None]
        self._is_free = True
        self.latencies: list[float] = []
        self.asks = False
        """True for devices that get a command only when they have asked for one."""
        self._has_asked = False

    def start(self, count: int) -> asyncio.Future[None]:
        """Send so many commands; returns what is done with the last response."""
        self._left, self.latencies = count, []
        self._done = asyncio.get_running_loop().create_future()
        self._next()
        return self._done

    def asked(self) -> None:
        """The device waits for a command."""
        self._has_asked = True
        self._next()

    def answered(self) -> None:
        """The response has come."""
        self.latencies.append(time.perf_counter() - self._sent)
        self._is_free = True
        self._left -= 1
        if self._left:
            self._next()
        else:
            self._done.set_result(None)

    def _next(self) -> None:
        if self._left and self._is_free and (self._has_asked or not self.asks):
            self._has_asked = self._is_free = False
            self._sent = time.perf_counter()
            self._send(self._number)


# --- the application over AMQP -----------------------------------------------------------------


async def amqp_application(spec: dict[str, Any], group: asyncio.TaskGroup) -> list[Round]:
    """Commands and responses over the northbound endpoint; devices that ask are heard by their telemetry."""
    tenant, user, port = spec["tenant"], spec["user"], spec["application"]
    loop = asyncio.get_running_loop()
    _, sender = await loop.create_connection(
        lambda: AmqpSender(user, f"command/{tenant}", b"", True, lambda _count: None),
        "127.0.0.1",
        port,
    )
    await sender.ready
    commands = [encode_message(_command(tenant, number)) for number in range(spec["devices"])]
    rounds = [
        Round(number, lambda n: sender.send_all([commands[n]])) for number in range(spec["devices"])
    ]

    def response(body: bytes) -> None:
        found = _DEVICE.search(body)
        if found is not None:
            rounds[int(found[1])].answered()

    def waiting(body: bytes) -> None:
        device = (message_of(body).application_properties or {}).get("device_id")
        rounds[int(cast(str, device)[1:])].asked()

    for address, take in (
        (f"command_response/{tenant}/bench", response),
        (f"telemetry/{tenant}", waiting),
    ):
        streams = await asyncio.open_connection("127.0.0.1", port)
        sink = Sink(*streams, user, on_message=take)
        await sink.attach(address)
        group.create_task(sink.run(1 << 62))
    await asyncio.sleep(0.2)
    return rounds


def _command(tenant: str, number: int) -> AmqpMessage:
    properties = Properties(
        message_id=f"m-{number}",
        to=f"command/{tenant}/d{number}",
        subject=NAME,
        reply_to=f"command_response/{tenant}/bench",
        correlation_id=f"corr-{number:04}",
        content_type="application/json",
    )
    return AmqpMessage(properties=properties, body=Data(BODY))


# --- devices -----------------------------------------------------------------------------------


async def mqtt_device(spec: dict[str, Any], number: int, _group: asyncio.TaskGroup) -> None:
    """MQTT 3.1.1, QoS 0 both ways."""
    holder: list[Client] = []

    def take(topic: str, _payload: bytes) -> None:
        holder[0].publish(f"command///res/{topic.split('/')[4]}/200", [BODY], 0)

    greeting = connect(f"d{number}", f"d{number}@{spec['tenant']}", PASSWORD)
    holder.append(await mqtt_client(spec["port"], greeting, take))
    holder[0].transport.write(subscribe("command///req/#", 0))
    await holder[0].subscribed


async def amqp_device(spec: dict[str, Any], number: int, group: asyncio.TaskGroup) -> None:
    """AMQP 1.0, one connection for commands and one for responses."""
    user = f"d{number}@{spec['tenant']}:{PASSWORD}"
    loop = asyncio.get_running_loop()
    _, sender = await loop.create_connection(
        lambda: AmqpSender(user, None, b"", True, lambda _count: None), "127.0.0.1", spec["port"]
    )
    await sender.ready

    def take(body: bytes) -> None:
        asked = message_of(body).properties
        answer = AmqpMessage(
            properties=Properties(to=asked.reply_to, correlation_id=asked.correlation_id),
            application_properties={"status": Int(200)},
            body=Data(BODY),
        )
        sender.send_all([encode_message(answer)])

    streams = await asyncio.open_connection("127.0.0.1", spec["port"])
    sink = Sink(*streams, user, on_message=take)
    await sink.attach("command")
    group.create_task(sink.run(1 << 62))


class HttpDevice(asyncio.Protocol):
    """HTTP: asks with telemetry, answers what it gets, asks again."""

    def __init__(self, spec: dict[str, Any], number: int) -> None:
        login = b64encode(f"d{number}@{spec['tenant']}:{PASSWORD}".encode()).decode()
        common = (
            f"Host: bench\r\nAuthorization: Basic {login}\r\nContent-Type: application/json\r\n"
        )
        self._ask = self._request("/telemetry", f"{common}hono-ttd: {TTD}\r\nQoS-Level: 0\r\n")
        self._answer = common + "hono-cmd-status: 200\r\n"
        self._transport: asyncio.Transport
        self._buffer = b""

    @staticmethod
    def _request(path: str, headers: str) -> bytes:
        head = f"POST {path} HTTP/1.1\r\n{headers}Content-Length: {len(BODY)}\r\n\r\n"
        return head.encode() + BODY

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._ask)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or len(buffer) < end + 4 + body_size(buffer, end):
            self._buffer = buffer
            return
        self._buffer = b""
        at = buffer.find(b"hono-cmd-req-id: ")
        if at < 0:
            self._transport.write(self._ask)
            return
        request_id = buffer[at + 17 : buffer.index(b"\r\n", at)].decode()
        self._transport.write(self._request(f"/command/res/{request_id}", self._answer))


async def http_device(spec: dict[str, Any], number: int, _group: asyncio.TaskGroup) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: HttpDevice(spec, number), "127.0.0.1", spec["port"])


class CoapDevice(asyncio.DatagramProtocol):
    """CoAP: asks with telemetry, answers what it gets, asks again."""

    def __init__(self, spec: dict[str, Any], number: int) -> None:
        self._path = (b"telemetry", spec["tenant"].encode(), b"d%d" % number)
        self._mid = random.getrandbits(16)  # an earlier load may have had this very port
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self._ask()

    def _ask(self) -> None:
        self._put(self._path, b"hono-ttd=%d" % TTD)

    def _put(self, path: tuple[bytes, ...], query: bytes) -> None:
        self._mid = (self._mid + 1) & 0xFFFF
        found = [(options.URI_PATH, segment) for segment in path]
        found += [(options.CONTENT_FORMAT, b"\x32"), (options.URI_QUERY, query)]
        request = Message(
            type=CON,
            code=codec.PUT,
            mid=self._mid,
            token=self._mid.to_bytes(2, "big"),
            options=tuple(found),
            payload=BODY,
        )
        self._transport.sendto(codec.encode(request))

    def datagram_received(self, data: bytes, _address: object) -> None:
        if data[1] == codec.EMPTY:  # the answer comes later
            return
        answer = codec.decode(data)
        if answer.type == CON:
            self._transport.sendto(codec.empty(codec.ACK, answer.mid))
        if answer.code >> 5 != 2:  # 5.03 when the application leaves: the measurement is over
            return
        path = tuple(value for number, value in answer.options if number == options.LOCATION_PATH)
        if path:
            self._put(path, b"hono-cmd-status=200")
        else:
            self._ask()


async def coap_device(spec: dict[str, Any], number: int, _group: asyncio.TaskGroup) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(
        lambda: CoapDevice(spec, number), remote_addr=("127.0.0.1", spec["port"])
    )


DEVICES: dict[str, Callable[[dict[str, Any], int, asyncio.TaskGroup], Awaitable[None]]] = {
    "mqtt": mqtt_device,
    "amqp": amqp_device,
    "http": http_device,
    "coap": coap_device,
}
ASKING = ("http", "coap")


# --- the same between two clients of a broker --------------------------------------------------


async def between_clients(spec: dict[str, Any]) -> list[Round]:
    """An MQTT client that asks, and one for each device that answers, on any broker."""
    rounds: list[Round] = []

    def take(topic: str, _payload: bytes) -> None:
        rounds[int(topic.rpartition("/")[2])].answered()

    asking = await mqtt_client(spec["port"], connect("application"), take)
    asking.transport.write(subscribe("res/+", 0))
    await asking.subscribed
    for number in range(spec["devices"]):
        await _answering(spec["port"], number)
        rounds.append(Round(number, lambda n: asking.publish(f"req/{n}", [BODY], 0)))
    return rounds


async def _answering(port: int, number: int) -> None:
    holder: list[Client] = []

    def take(_topic: str, _payload: bytes) -> None:
        holder[0].publish(f"res/{number}", [BODY], 0)

    holder.append(await mqtt_client(port, connect(f"d{number}"), take))
    holder[0].transport.write(subscribe(f"req/{number}", 0))
    await holder[0].subscribed


# --- the load ----------------------------------------------------------------------------------


async def run(spec: dict[str, Any]) -> dict[str, float]:
    """Connect all, warm, measure."""
    async with asyncio.TaskGroup() as group:
        if spec["application"] is None:
            rounds = await between_clients(spec)
        else:
            rounds = await amqp_application(spec, group)
            for one in rounds:
                one.asks = spec["protocol"] in ASKING
            for number in range(spec["devices"]):
                await DEVICES[spec["protocol"]](spec, number, group)
        await asyncio.sleep(0.3)
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*(one.start(WARM) for one in rounds))
            before, started = cpu(spec["pids"]), time.perf_counter()
            await asyncio.gather(*(one.start(spec["commands"]) for one in rounds))
            seconds, spent = time.perf_counter() - started, cpu(spec["pids"]) - before
        for task in asyncio.all_tasks() - {cast(asyncio.Task[Any], asyncio.current_task())}:
            task.cancel()
    latencies = [latency for one in rounds for latency in one.latencies]
    found = statistics.quantiles(latencies, n=100)
    return {
        "commands": len(latencies),
        "seconds": seconds,
        "cpu": spent,
        "p50": found[49] * 1_000,
        "p99": found[98] * 1_000,
    }


async def main() -> None:
    print(json.dumps(await run(json.load(sys.stdin))))


if __name__ == "__main__":
    process.run(main())
