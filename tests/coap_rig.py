"""A running CoAP adapter for tests, and peers that speak to it: raw datagrams and libcoap's client."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gateway.config.hono import CoapAdapter as Settings
from gateway.hono.adapters.coap import CoapAdapter
from gateway.hono.adapters.coap_dtls import SecureSockets, why_not
from gateway.hono.adapters.coap_keys import CoapKeys
from gateway.model.json import Json
from gateway.runtime.listener import Endpoints
from gateway.runtime.module import running
from gateway.wire.coap import codec, options
from gateway.wire.coap.codec import CON, PUT, Message, Option
from tests.hono_rig import FREE, Core, until

OUR_DEVICE = "telemetry/acme/d1"


@asynccontextmanager
async def a_coap_adapter(
    core: Core, *, files: tuple[Path, Path] | None = None, **changes: object
) -> AsyncIterator[CoapAdapter]:
    """The CoAP adapter of `core`, open to devices without credentials. `changes` are settings."""
    values: dict[str, object] = {"authentication_required": False} | changes
    settings = Settings(bind=FREE, tls_bind=FREE, **values)  # type: ignore[arg-type]
    missing = why_not(settings.tls)
    keys = CoapKeys(core.registry, core.authenticator)
    adapter = CoapAdapter(
        settings,
        core.endpoints,
        core.registry,
        core.ingress,
        core.commands,
        core.metrics,
        secure=None if missing else SecureSockets(settings, keys, core.metrics, files),
        missing=missing or "",
    )
    async with running(adapter):
        yield adapter


async def with_a_key(core: Core, device: str, auth_id: str, key: str) -> None:
    """Give a device of `acme` a pre-shared key, and no other credentials."""
    raw = base64.b64encode(key.encode()).decode()
    secret: Json = {"type": "psk", "auth-id": auth_id, "secrets": [{"key": raw}]}
    await core.registry.update_credentials("acme", device, [secret], None)


def a_request(
    path: str,
    payload: bytes = b"",
    *,
    kind: int = CON,
    code: int = PUT,
    mid: int = 1,
    token: bytes = b"tk",
    more: tuple[Option, ...] = (),
) -> Message:
    """A request for a path, with its query behind `?`."""
    path, _, query = path.partition("?")
    found: list[Option] = [(options.URI_PATH, s.encode()) for s in path.split("/")]
    found += [(options.URI_QUERY, q.encode()) for q in query.split("&") if q]
    return Message(
        type=kind,
        code=code,
        mid=mid,
        token=token,
        options=tuple(sorted((*found, *more), key=lambda o: o[0])),
        payload=payload,
    )


@dataclass
class Device(asyncio.DatagramProtocol):
    """A peer that sends and keeps datagrams as they are."""

    seen: list[Message] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    mids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    transport: asyncio.DatagramTransport = field(init=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.raw.append(data)
        self.seen.append(codec.decode(data))

    def send(self, message: Message | bytes) -> None:
        data = message if isinstance(message, bytes) else codec.encode(message)
        self.transport.sendto(data)

    def acknowledge(self, message: Message) -> None:
        self.send(codec.empty(codec.ACK, message.mid))

    async def ask(self, path: str, payload: bytes = b"", **more: object) -> Message:
        """Send a request with an id of its own; returns the next datagram that comes."""
        seen = len(self.seen)
        self.send(a_request(path, payload, mid=next(self.mids), **more))  # type: ignore[arg-type]
        await until(lambda: len(self.seen) > seen)
        return self.seen[seen]


class HasEndpoints(Protocol):
    """Something that listens."""

    @property
    def endpoints(self) -> Endpoints: ...


@asynccontextmanager
async def a_device(core: HasEndpoints, name: str = "hono.coap") -> AsyncIterator[Device]:
    """A peer of the adapter."""
    host, _, port = core.endpoints.get(name).rpartition(":")
    loop = asyncio.get_running_loop()
    transport, device = await loop.create_datagram_endpoint(Device, remote_addr=(host, int(port)))
    try:
        yield device
    finally:
        transport.close()
        await asyncio.sleep(0)


CLIENT = shutil.which("coap-client-notls") or shutil.which("coap-client")


async def coap_client(*args: str, program: str | None = None) -> str:
    """Run libcoap's client; returns what it printed, on both streams."""
    process = await asyncio.create_subprocess_exec(
        program or CLIENT or "coap-client",
        *args,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return out.decode(errors="replace")
