"""Devices for contract tests: one driver per protocol, each over a real socket, all with one vocabulary.

What a device is told is a line of text, so that a table can be read.
HTTP: `503 no consumer available`. CoAP: `5.03 no consumer available`, or `no handshake`.
AMQP: `accepted`, `released`, `rejected hono:bad-request: ...`, `sasl failed`, `closed amqp:...`, `detached`.
MQTT: `puback`, `puback 0x80`, `closed`, `connack 5`; who watches the error topic also `404 ...; puback`.
`-` where the protocol has nothing to say.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from queue import Empty
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import aiohttp
from paho.mqtt import client as paho
from paho.mqtt.packettypes import PacketTypes
from proton import Message
from proton.reactor import AtMostOnce

from gateway.model.message import EMPTY_NOTIFICATION
from gateway.wire.coap import codec, options
from tests.coap_rig import Device, a_device
from tests.contract.adapter_service import Service
from tests.dtls_peer import DtlsDevice, a_dtls_device
from tests.hono_rig import basic
from tests.integration.proton_peer import Peer, until
from tests.mqtt_peers import Paho, paho_client, properties_of

NOTHING = "-"
JSON = "application/json"
OCTETS = "application/octet-stream"
FORMATS = {JSON: 50, OCTETS: 42}
CONNACK3 = {0x86: 4, 0x87: 5, 0x88: 3}
"""What paho makes of the return codes of MQTT 3.1.1, the other way round."""
BLOCK = 1_024
CONTINUE = 0x5F
SILENCE = 0.5
"""Seconds without an answer after which a DTLS peer counts as turned away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a device tries.

    Shape:  `path` is what follows the endpoint in the address; `login` user name and password.
    """

    endpoint: str
    path: str = ""
    login: tuple[str, str] | None
    qos: int = 1
    payload: bytes = b"{}"
    content_type: str | None = JSON
    ttl: int | None = None
    ttd: int | None = None
    is_watching: bool = False
    on_error: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What came of it: the device's view, and the address as it wrote it."""

    text: str
    address: str = ""


Counted = Callable[[], bool]


class Face(Protocol):
    """One protocol, as a device sees it."""

    name: str
    adapter: str

    def can(self, attempt: Attempt) -> bool:
        """True where the protocol has a way to say that."""

    async def upload(self, service: Service, attempt: Attempt, counted: Counted) -> Told:
        """Try; `counted` becomes true once the service has counted the message."""


# --- HTTP --------------------------------------------------------------------------------------------


class HttpFace:
    name = "http"
    adapter = "hono-http"

    def can(self, attempt: Attempt) -> bool:
        return attempt.endpoint not in ("t", "e") and attempt.qos < 3

    async def upload(self, service: Service, attempt: Attempt, counted: Counted) -> Told:
        del counted
        address = f"/{attempt.endpoint}{attempt.path}"
        headers = {}
        if attempt.endpoint == "telemetry" or attempt.qos == 0:
            headers["qos-level"] = str(attempt.qos)
        if attempt.content_type:
            headers["Content-Type"] = attempt.content_type
        if attempt.ttl:
            headers["hono-ttl"] = str(attempt.ttl)
        if attempt.ttd:
            address += f"?hono-ttd={attempt.ttd}"
        if attempt.login:
            headers |= basic(*attempt.login)
        session = aiohttp.ClientSession(skip_auto_headers=("Content-Type",))
        url = f"http://{service.address('hono.http')}{address}"
        async with (
            session,
            session.request(
                "PUT" if attempt.path else "POST", url, data=attempt.payload, headers=headers
            ) as answer,
        ):
            return Told(await self._told(answer), address)

    async def _told(self, answer: aiohttp.ClientResponse) -> str:
        body = await answer.read()
        headers = answer.headers
        assert ("WWW-Authenticate" in headers) == (answer.status == 401)
        if answer.status == 401:
            assert headers["WWW-Authenticate"] == 'Basic realm="Hono"'
        assert headers.get("Retry-After") == ("2" if answer.status == 503 else None)
        if answer.status in (200, 202):
            return f"{answer.status} {body.decode()}".strip()
        if headers["Content-Type"] == "text/html":
            return f"{answer.status} html"
        assert headers["Content-Type"] == "application/json; charset=utf-8"
        said = json.loads(body)
        assert list(said) == ["error"]
        return f"{answer.status} {said['error']}"


# --- MQTT --------------------------------------------------------------------------------------------


class MqttFace:
    """A device over MQTT; one that is watching listens to its error topic."""

    adapter = "hono-mqtt"

    def __init__(self, version: int, *, is_watching: bool) -> None:
        self.version = version
        self.is_watching = is_watching
        self.name = f"mqtt{3 if version == paho.MQTTv311 else 5}" + "-watching" * is_watching

    def can(self, attempt: Attempt) -> bool:
        return attempt.ttd is None and (attempt.on_error is None or not self.is_watching)

    async def upload(self, service: Service, attempt: Attempt, counted: Counted) -> Told:
        name, password = attempt.login or (None, None)
        address = service.address("hono.mqtt")
        async with paho_client(address, self.version, username=name, password=password) as peer:
            code = await peer.connack()
            if code:
                shown = CONNACK3[code] if self.version == paho.MQTTv311 else f"0x{code:02x}"
                return Told(f"connack {shown}")
            if self.is_watching:
                is_gateway = name is not None and name.startswith("gw")
                watched = "error//+/#" if is_gateway else "error///#"
                if name is None:
                    watched = f"error/{attempt.path.strip('/')}/#"
                assert await peer.subscribe((watched, 0)) == [0]
            topic, properties = self._topic(attempt)
            peer.client.publish(topic, attempt.payload, attempt.qos, properties=properties)
            return Told(await self._outcome(peer, attempt, counted), topic)

    def _topic(self, attempt: Attempt) -> tuple[str, Any]:
        bag, properties = {}, None
        if attempt.content_type and self.version == paho.MQTTv5:
            properties = properties_of(PacketTypes.PUBLISH, ContentType=attempt.content_type)
        elif attempt.content_type:
            bag["content-type"] = attempt.content_type
        if attempt.ttl:
            bag["hono-ttl"] = str(attempt.ttl)
        if attempt.on_error:
            bag["on-error"] = attempt.on_error
        suffix = f"/?{urlencode(bag)}" if bag else ""
        return f"{attempt.endpoint}{attempt.path}{suffix}", properties

    async def _outcome(self, peer: Paho, attempt: Attempt, counted: Counted) -> str:
        if not attempt.qos:
            await until(lambda: counted() or peer.gone.is_set() or not peer.messages.empty())
        if attempt.qos and attempt.on_error != "skip-ack":
            await until(lambda: peer.gone.is_set() or not peer.acks.empty())
        else:
            await self._round_trip(peer)
        said = []
        if not peer.messages.empty():
            error = json.loads(peer.messages.get_nowait().payload)
            assert list(error) == ["code", "message", "timestamp", "correlation-id"]
            said.append(f"{error['code']} {error['message']}")
        if peer.gone.is_set():
            said.append("closed")
        elif not peer.acks.empty() and attempt.qos:
            _, reason = peer.acks.get_nowait()
            said.append("puback" + (f" 0x{reason:02x}" if reason else ""))
        return "; ".join(said) or NOTHING

    async def _round_trip(self, peer: Paho) -> None:
        """Ask for something that is refused: what was sent before has come then."""
        peer.client.subscribe("nothing")
        await until(lambda: peer.gone.is_set() or not peer.subacks.empty())


# --- AMQP --------------------------------------------------------------------------------------------


class DevicePeer(Peer):
    """A device over AMQP."""

    async def __aenter__(self) -> DevicePeer:
        await super().__aenter__()
        return self

    def send_settled(self, message: Message) -> None:
        """Send at most once, on a link of its own."""

        def work() -> None:
            sender = self._senders["settled"] = self._container.create_sender(
                self._connection, None, name="settled", options=AtMostOnce()
            )
            self._outbox["settled"] = [(message, "settled")]
            self._pump(sender)

        self.do(work)

    async def first_of(self, *kinds: str) -> tuple[Any, ...]:
        """The next log entry of one of these kinds; others before it are dropped."""

        def look() -> tuple[Any, ...] | None:
            try:
                entry: tuple[Any, ...] = self.log.get_nowait()
            except Empty:
                return None
            return entry if entry[0] in kinds else look()

        found: tuple[Any, ...] = await until(look)
        return found


class AmqpFace:
    name = "amqp"
    adapter = "hono-amqp"

    def can(self, attempt: Attempt) -> bool:
        return attempt.ttd is None and attempt.qos < 2 and attempt.on_error is None

    async def upload(self, service: Service, attempt: Attempt, counted: Counted) -> Told:
        async with self.peer(service, attempt) as peer:
            entry = await peer.first_of("opened", "failed", "closed")
            if entry[0] == "failed":
                return Told("sasl failed")
            if entry[0] == "opened":
                # a refused connection is opened, then closed
                peer.receive_from("nothing")
                entry = await peer.first_of("link-error", "closed")
            if entry[0] == "closed":
                return Told(f"closed {entry[1]}")
            address = f"{attempt.endpoint}{attempt.path}"
            message = Message(
                address=address,
                body=attempt.payload or None,
                content_type=attempt.content_type,
                ttl=attempt.ttl or 0,
            )
            if attempt.qos:
                peer.send(None, message, "one")
            else:
                peer.send_settled(message)
            return Told(await self._outcome(peer, attempt, counted), address)

    def peer(self, service: Service, attempt: Attempt) -> DevicePeer:
        """A peer that logs in as told."""
        login = ""
        if attempt.login:
            login = ":".join(quote(part, safe="") for part in attempt.login) + "@"
        mechanism = "PLAIN" if attempt.login else "ANONYMOUS"
        return DevicePeer(f"amqp://{login}{service.address('hono.amqp')}", mechs=mechanism)

    async def _outcome(self, peer: DevicePeer, attempt: Attempt, counted: Counted) -> str:
        if not attempt.qos:
            await until(counted)
            return NOTHING
        entry = await peer.first_of("outcome", "link-error", "detached", "closed")
        if entry[0] in ("link-error", "detached"):
            return f"{entry[0]} {entry[2]}"
        if entry[0] == "closed":
            return f"closed {entry[1]}"
        _, _, state, condition, text = entry
        said = f"{state} {condition}: {text}" if condition else state
        peer.receive_from("nothing again")
        entry = await peer.first_of("link-error", "closed")
        return f"{said}; closed {entry[1]}" if entry[0] == "closed" else str(said)


# --- CoAP --------------------------------------------------------------------------------------------


class CoapFace:
    name = "coap"
    adapter = "hono-coap"

    def can(self, attempt: Attempt) -> bool:
        known = (None, EMPTY_NOTIFICATION, *FORMATS)
        return (
            attempt.ttl is None
            and attempt.qos < 2
            and attempt.on_error is None
            and attempt.content_type in known
        )

    async def upload(self, service: Service, attempt: Attempt, counted: Counted) -> Told:
        del counted
        path = f"{attempt.endpoint}{attempt.path}"
        query = [f"hono-ttd={attempt.ttd}"] if attempt.ttd else []
        more: tuple[codec.Option, ...] = ()
        if attempt.content_type == EMPTY_NOTIFICATION:
            query.append("empty")
        elif attempt.content_type:
            number = FORMATS[attempt.content_type]
            more = ((options.CONTENT_FORMAT, options.uint_bytes(number)),)
        async with self._peer(service, attempt.login) as peer:
            if peer is None:
                return Told("no handshake")
            answer = await self._ask_in_blocks(
                peer,
                f"{path}?{'&'.join(query)}",
                attempt.payload,
                kind=codec.CON if attempt.qos else codec.NON,
                code=codec.PUT if attempt.path else codec.POST,
                more=more,
            )
            return Told(self.told(answer), f"/{path}")

    @asynccontextmanager
    async def _peer(
        self, service: Service, login: tuple[str, str] | None
    ) -> AsyncIterator[DtlsDevice | Device | None]:
        """A device with its session, plain without credentials; None for one that is turned away."""
        if login is None and "hono.coap" in service.endpoints:
            async with a_device(service) as plain:
                yield plain
            return
        name, key = login or ("nobody", "nothing")
        address = service.address("hono.coaps")
        async with a_dtls_device(address, name.encode(), key.encode()) as peer:
            with suppress(TimeoutError):
                async with asyncio.timeout(SILENCE):
                    await peer.shake_hands()
            yield peer if peer.is_open else None

    @staticmethod
    async def _ask_in_blocks(
        peer: DtlsDevice | Device,
        path: str,
        payload: bytes,
        *,
        more: tuple[codec.Option, ...],
        **how: Any,
    ) -> codec.Message:
        """Send a body, in blocks where it is large; what is not `continue` is the answer."""
        blocks = [payload[at : at + BLOCK] for at in range(0, len(payload), BLOCK)] or [b""]
        for number, block in enumerate(blocks):
            is_last = number == len(blocks) - 1
            head = (number << 4) | (0 if is_last else 8) | 6
            option = ((options.BLOCK1, options.uint_bytes(head)),) if len(blocks) > 1 else ()
            answer = await peer.ask(path, block, more=(*more, *option), **how)
            if answer.code != CONTINUE:
                break
        return answer

    @staticmethod
    def told(answer: codec.Message) -> str:
        """The code and text of an answer."""
        is_busy = answer.code == 0xA3
        assert answer.first(options.MAX_AGE) == (b"\x02" if is_busy else None)
        return f"{answer.code >> 5}.{answer.code & 31:02d} {answer.payload.decode()}".strip()


MQTT = tuple(
    MqttFace(version, is_watching=is_watching)
    for is_watching in (False, True)
    for version in (int(paho.MQTTv311), int(paho.MQTTv5))
)
FACES: tuple[Face, ...] = (HttpFace(), *MQTT, AmqpFace(), CoapFace())
