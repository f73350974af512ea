"""Devices that listen for commands and answer them, one driver per protocol, all with one vocabulary.

What a device is told about its response is a line of text as in `adapter_faces`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from proton import Condition, Delivery, Message

from gateway.wire.coap import codec, options
from tests.contract.adapter_faces import FORMATS, DevicePeer
from tests.contract.adapter_service import PASSWORDS, Service
from tests.dtls_peer import DtlsDevice, a_dtls_device
from tests.hono_rig import basic
from tests.integration.proton_peer import Received, until
from tests.mqtt_peers import Paho, paho_client, properties_of

TTD = 30
"""Seconds that devices wait for a command where they have to say so."""
NUMBERS = {number: name for name, number in FORMATS.items()} | {0: "text/plain; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Ear:
    """Who listens: a device for itself, or a gateway for all its devices."""

    auth_id: str
    device: str

    @property
    def is_gateway(self) -> bool:
        return self.auth_id != "sensor1"

    def login(self, tenant: str) -> tuple[str, str]:
        return f"{self.auth_id}@{tenant}", PASSWORDS[self.auth_id]


@dataclass(frozen=True, slots=True)
class Heard:
    """A command as a device got it; `where` is what its protocol needs to answer."""

    name: str
    payload: bytes
    content_type: str | None
    target: str | None
    is_request: bool
    where: Any = None


class Listener(Protocol):
    """A device that listens now."""

    async def hears(self) -> Heard:
        """The command that comes."""

    async def answers(
        self, heard: Heard, status: int, payload: bytes, content_type: str | None
    ) -> str:
        """Respond; returns what the device is told."""


class Face(Protocol):
    """One protocol."""

    name: str
    adapter: str

    def listening(
        self, service: Service, tenant: str, ear: Ear
    ) -> AbstractAsyncContextManager[Listener]:
        """A device that listens for the length of the block."""


# --- HTTP --------------------------------------------------------------------------------------------


class HttpListener:
    def __init__(self, service: Service, tenant: str, ear: Ear) -> None:
        self._base = f"http://{service.address('hono.http')}"
        self._headers = basic(*ear.login(tenant))
        self._ear = ear
        self.waiting: asyncio.Task[tuple[int, Any, bytes]] | None = None

    async def wait(self) -> tuple[int, Any, bytes]:
        async with (
            aiohttp.ClientSession(headers=self._headers) as session,
            session.post(f"{self._base}/event?hono-ttd={TTD}", json={}) as answer,
        ):
            return answer.status, answer.headers, await answer.read()

    async def hears(self) -> Heard:
        assert self.waiting is not None
        status, headers, body = await self.waiting
        assert status == 200
        return Heard(
            headers["hono-command"],
            body,
            headers.get("Content-Type"),
            headers.get("hono-cmd-target-device"),
            "hono-cmd-req-id" in headers,
            headers.get("hono-cmd-req-id"),
        )

    async def answers(
        self, heard: Heard, status: int, payload: bytes, content_type: str | None
    ) -> str:
        request_id = quote(str(heard.where), safe="")
        path = f"/{heard.target}/{request_id}" if heard.target else f"/{request_id}"
        headers = {"hono-cmd-status": str(status)}
        if content_type:
            headers["Content-Type"] = content_type
        async with (
            aiohttp.ClientSession(
                headers=self._headers, skip_auto_headers=("Content-Type",)
            ) as session,
            session.request(
                "PUT" if heard.target else "POST",
                f"{self._base}/command/res{'/' if heard.target else ''}{path}",
                data=payload,
                headers=headers,
            ) as answer,
        ):
            body = await answer.read()
            return f"{answer.status} {json.loads(body)['error']}" if body else str(answer.status)


class HttpFace:
    name = "http"
    adapter = "hono-http"

    @asynccontextmanager
    async def listening(self, service: Service, tenant: str, ear: Ear) -> AsyncIterator[Listener]:
        listener = HttpListener(service, tenant, ear)
        async with asyncio.TaskGroup() as group:
            listener.waiting = group.create_task(listener.wait())
            await until(lambda: service.commands.is_listening(tenant, ear.device))
            yield listener
            listener.waiting.cancel()


# --- MQTT --------------------------------------------------------------------------------------------


class MqttListener:
    def __init__(self, peer: Paho, version: int, ear: Ear) -> None:
        self.peer = peer
        self._version = version
        self._ear = ear

    async def hears(self) -> Heard:
        message = await self.peer.message()
        _, tenant, device, request, request_id, name = message.topic.split("/")
        assert (tenant, request) == ("", "req")
        said = getattr(message, "properties", None)
        content_type = getattr(said, "ContentType", None) if said else None
        target = None if device in ("", self._ear.device) else device
        where = (device, request_id)
        payload = bytes(message.payload)
        return Heard(name, payload, content_type, target, bool(request_id), where)

    async def answers(
        self, heard: Heard, status: int, payload: bytes, content_type: str | None
    ) -> str:
        device, request_id = heard.where
        topic = f"command//{device}/res/{request_id}/{status}"
        properties = None
        if content_type and self._version == paho.MQTTv5:
            properties = properties_of(PacketTypes.PUBLISH, ContentType=content_type)
        elif content_type:
            topic += f"/?content-type={quote(content_type, safe='')}"
        self.peer.client.publish(topic, payload, 1, properties=properties)
        await until(lambda: self.peer.gone.is_set() or not self.peer.acks.empty())
        return "closed" if self.peer.gone.is_set() else "puback"


class MqttFace:
    adapter = "hono-mqtt"

    def __init__(self, version: int, qos: int) -> None:
        self.version = version
        self.qos = qos
        self.name = f"mqtt{3 if version == paho.MQTTv311 else 5}-qos{qos}"

    @asynccontextmanager
    async def listening(self, service: Service, tenant: str, ear: Ear) -> AsyncIterator[Listener]:
        name, password = ear.login(tenant)
        address = service.address("hono.mqtt")
        async with paho_client(address, self.version, username=name, password=password) as peer:
            assert await peer.connack() == 0
            wanted = f"command//{'+' if ear.is_gateway else ''}/req/#"
            assert await peer.subscribe((wanted, self.qos)) == [self.qos]
            yield MqttListener(peer, self.version, ear)


# --- AMQP --------------------------------------------------------------------------------------------


class AmqpListener:
    def __init__(self, peer: DevicePeer, tenant: str) -> None:
        self.peer = peer
        self._tenant = tenant

    async def hears(self) -> Heard:
        got: Received = (await self.peer.expect("message"))[2]
        assert got.address is not None
        assert got.subject is not None
        device = got.address.removeprefix(f"command/{self._tenant}/")
        target = got.properties.get("device_id")
        assert target in (None, device)
        where = (got.reply_to, got.correlation_id)
        return Heard(
            got.subject, got.body or b"", got.content_type, target, got.reply_to is not None, where
        )

    async def answers(
        self, heard: Heard, status: int, payload: bytes, content_type: str | None
    ) -> str:
        reply_to, correlation_id = heard.where
        response = Message(
            address=reply_to,
            correlation_id=correlation_id,
            body=payload or None,
            content_type=content_type,
            properties={"status": status},
        )
        self.peer.send(None, response, "response")
        _, _, state, condition, text = await self.peer.expect("outcome")
        return f"{state} {condition}: {text}" if condition else str(state)


class AmqpFace:
    name = "amqp"
    adapter = "hono-amqp"

    @asynccontextmanager
    async def listening(self, service: Service, tenant: str, ear: Ear) -> AsyncIterator[Listener]:
        login = ":".join(quote(part, safe="") for part in ear.login(tenant))
        async with DevicePeer(f"amqp://{login}@{service.address('hono.amqp')}") as peer:
            peer.receive_from("command")
            await peer.expect("attached")
            await until(lambda: service.commands.is_listening(tenant, ear.device))
            yield AmqpListener(peer, tenant)


# --- CoAP --------------------------------------------------------------------------------------------


class CoapListener:
    def __init__(self, peer: DtlsDevice, waiting: asyncio.Task[codec.Message]) -> None:
        self._peer = peer
        self._waiting = waiting

    async def hears(self) -> Heard:
        got = await self._waiting
        assert got.code == codec_of("2.04")
        path = [value.decode() for value in got.all(options.LOCATION_PATH)]
        (query,) = [value.decode() for value in got.all(options.LOCATION_QUERY)]
        number = got.first(options.CONTENT_FORMAT)
        target = path[2] if len(path) > 2 and path[1] == "" else None
        return Heard(
            query.removeprefix("hono-command="),
            got.payload,
            None if number is None else NUMBERS[int.from_bytes(number, "big")],
            target,
            path[0] == "command_response",
            path,
        )

    async def answers(
        self, heard: Heard, status: int, payload: bytes, content_type: str | None
    ) -> str:
        more: tuple[codec.Option, ...] = ()
        if content_type:
            more = ((options.CONTENT_FORMAT, options.uint_bytes(FORMATS.get(content_type, 0))),)
        answer = await self._peer.ask(
            f"{'/'.join(heard.where)}?hono-cmd-status={status}",
            payload,
            code=codec.PUT if heard.target else codec.POST,
            more=more,
        )
        return f"{answer.code >> 5}.{answer.code & 31:02d} {answer.payload.decode()}".strip()


def codec_of(text: str) -> int:
    """The byte of a code like 2.04."""
    kind, detail = text.split(".")
    return int(kind) << 5 | int(detail)


class CoapFace:
    name = "coap"
    adapter = "hono-coap"

    @asynccontextmanager
    async def listening(self, service: Service, tenant: str, ear: Ear) -> AsyncIterator[Listener]:
        name, key = ear.login(tenant)
        address = service.address("hono.coaps")
        async with a_dtls_device(address, name.encode(), key.encode()) as peer:
            await peer.shake_hands()
            ask = peer.ask(f"event?hono-ttd={TTD}", b"{}", code=codec.POST)
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(ask)
                await until(lambda: service.commands.is_listening(tenant, ear.device))
                yield CoapListener(peer, waiting)
                waiting.cancel()


MQTT = tuple(MqttFace(v, qos) for v in (int(paho.MQTTv311), int(paho.MQTTv5)) for qos in (0, 1))
FACES: tuple[Face, ...] = (HttpFace(), *MQTT, AmqpFace(), CoapFace())

React = Callable[[Delivery], None]


def rejecting(delivery: Delivery) -> None:
    delivery.local.condition = Condition("amqp:not-implemented", "no such thing")
    delivery.update(Delivery.REJECTED)


def modifying(delivery: Delivery) -> None:
    delivery.local.failed = True
    delivery.update(Delivery.MODIFIED)


REACTIONS: dict[str, React] = {
    "rejects": rejecting,
    "releases": lambda delivery: delivery.update(Delivery.RELEASED),
    "modifies": modifying,
}
