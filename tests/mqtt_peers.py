"""Real MQTT peers for tests: paho-mqtt in its own thread, mosquitto's tools, and bare bytes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.ports import free_port

PATIENCE = 30.0
"""Seconds after which something that did not happen never will."""


def tool(name: str) -> str:
    """The path of one of mosquitto's programs; the test is skipped where it is not installed."""
    for directory in (None, "/usr/sbin:/usr/local/sbin:/sbin"):
        path = shutil.which(name, path=directory)
        if path is not None:
            return path
    pytest.skip(f"{name} is not installed (Debian: mosquitto, mosquitto-clients)")


@dataclass(slots=True)
class Finished:
    """How a program ended."""

    code: int
    out: str
    err: str


async def run_tool(name: str, *args: str, stdin: bytes | None = None) -> Finished:
    """Run a program to its end."""
    process = await asyncio.create_subprocess_exec(
        tool(name),
        *args,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate(stdin)
    return Finished(process.returncode or 0, out.decode(), err.decode())


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for a condition of this process."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  any condition, not one that can set an Event
            await asyncio.sleep(0.005)


@dataclass(slots=True)
class Paho:
    """A paho client; what its thread sees is brought to the loop."""

    client: paho.Client
    loop: asyncio.AbstractEventLoop
    connacks: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    connack_properties: list[Any] = field(default_factory=list)
    messages: asyncio.Queue[paho.MQTTMessage] = field(default_factory=asyncio.Queue)
    acks: asyncio.Queue[tuple[int, int]] = field(default_factory=asyncio.Queue)
    subacks: asyncio.Queue[list[int]] = field(default_factory=asyncio.Queue)
    unsubacks: asyncio.Queue[list[int]] = field(default_factory=asyncio.Queue)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    gone_reasons: list[int] = field(default_factory=list)

    def _on_loop(self, call: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop of a test that is over
            self.loop.call_soon_threadsafe(call, *args)

    def listen(self) -> None:
        client = self.client
        client.on_connect = self._connected
        client.on_message = lambda _c, _u, m: self._on_loop(self.messages.put_nowait, m)
        client.on_publish = lambda _c, _u, mid, reason, _p: self._on_loop(
            self.acks.put_nowait, (mid, reason.value)
        )
        client.on_subscribe = lambda _c, _u, _mid, codes, _p: self._on_loop(
            self.subacks.put_nowait, [c.value for c in codes]
        )
        client.on_unsubscribe = lambda _c, _u, _mid, codes, _p: self._on_loop(
            self.unsubacks.put_nowait, [c.value for c in codes]
        )
        client.on_disconnect = self._disconnected

    def _connected(self, _c: object, _u: object, _f: object, reason: Any, properties: Any) -> None:
        self.connack_properties.append(properties)
        self._on_loop(self.connacks.put_nowait, reason.value)

    def _disconnected(self, _c: object, _u: object, _f: object, reason: Any, _p: object) -> None:
        self.gone_reasons.append(reason.value)
        self._on_loop(self.gone.set)

    async def connack(self) -> int:
        return await asyncio.wait_for(self.connacks.get(), PATIENCE)

    async def message(self) -> paho.MQTTMessage:
        return await asyncio.wait_for(self.messages.get(), PATIENCE)

    async def ack(self) -> tuple[int, int]:
        return await asyncio.wait_for(self.acks.get(), PATIENCE)

    async def subscribe(self, *filters: tuple[str, int]) -> list[int]:
        if self.client.protocol == paho.MQTTv5:
            self.client.subscribe([(f, SubscribeOptions(qos=qos)) for f, qos in filters])
        else:
            self.client.subscribe(list(filters))
        return await asyncio.wait_for(self.subacks.get(), PATIENCE)

    async def unsubscribe(self, *filters: str) -> list[int]:
        self.client.unsubscribe(list(filters))
        return await asyncio.wait_for(self.unsubacks.get(), PATIENCE)

    async def disconnected(self) -> None:
        await asyncio.wait_for(self.gone.wait(), PATIENCE)


def properties_of(packet: int, **values: object) -> PahoProperties:
    """Properties for paho: `properties_of(PacketTypes.PUBLISH, ContentType="x")`."""
    properties: PahoProperties = PahoProperties(packet)  # type: ignore[no-untyped-call]  # paho has no types there
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


@contextlib.asynccontextmanager
async def paho_client(
    address: str,
    version: int = paho.MQTTv311,
    *,
    username: str | None = None,
    password: str | None = None,
    client_id: str = "",
    keepalive: int = 60,
    clean: bool = True,
    will: tuple[str, bytes, int, bool] | None = None,
    connect_properties: PahoProperties | None = None,
    tls_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Paho]:
    """A connected (or refused) paho client for the length of the block."""
    is_5 = version == paho.MQTTv5
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id,
        protocol=MQTTProtocolVersion(version),
        clean_session=None if is_5 else clean,
        reconnect_on_failure=False,
    )
    if username is not None:
        client.username_pw_set(username, password)
    if tls_context is not None:
        client.tls_set_context(tls_context)
    if will is not None:
        client.will_set(will[0], will[1], will[2], will[3])
    peer = Paho(client, asyncio.get_running_loop())
    peer.listen()
    host, _, port = address.rpartition(":")
    extra: dict[str, Any] = {"clean_start": clean} if is_5 else {}
    if connect_properties is not None:
        extra["properties"] = connect_properties
    await asyncio.to_thread(lambda: client.connect(host, int(port), keepalive, **extra))
    client.loop_start()
    try:
        yield peer
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)


@contextlib.asynccontextmanager
async def mosquitto(port: int | None = None) -> AsyncIterator[str]:
    """Debian's broker on a free port (or one that was free) for the length of the block."""
    port = port or free_port()
    process = await asyncio.create_subprocess_exec(
        tool("mosquitto"),
        "-p",
        str(port),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while not await _listens(port):
                assert process.returncode is None, "mosquitto did not start"
                await asyncio.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@dataclass(slots=True)
class Raw:
    """A socket that sends whatever bytes a test likes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), PATIENCE)

    def stop_reading(self) -> None:
        """Take nothing more from the socket: a peer that is stuck."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it

    def go_on_reading(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def rest(self) -> bytes:
        """Everything until the other side closes; a reset counts as closing."""
        out = bytearray()
        try:
            while data := await asyncio.wait_for(self.reader.read(65_536), PATIENCE):
                out += data
        except ConnectionResetError:
            pass
        return bytes(out)


@contextlib.asynccontextmanager
async def raw_client(address: str, receive_buffer: int | None = None) -> AsyncIterator[Raw]:
    """A bare TCP connection for the length of the block; a small buffer makes a slow peer quickly."""
    host, _, port = address.rpartition(":")
    with socket.socket() as made:
        if receive_buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=made.dup())
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
