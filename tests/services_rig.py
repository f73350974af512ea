"""The internal services on a running Hono core, and a foreign client that speaks to them as Hono's does."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from proton import Message

from gateway.config.internal import Internal
from gateway.hono.downstream import Messaging
from gateway.hono.service_assembly import (
    Core as Behind,
)
from gateway.hono.service_assembly import internal_services, make_tokens
from gateway.hono.service_authorities import Users
from gateway.hono.service_listener import InternalServices
from gateway.hono.service_samples import sample_users
from gateway.model.ports import Downstream
from gateway.runtime.module import running
from tests.hono_rig import FREE, Core
from tests.integration.proton_peer import Peer, Received, until

ADAPTER = "http-adapter%40HONO:http-secret"
APPLICATIONS = {"consumer@HONO": "verysecret"}
_numbers = count(1)


@dataclass
class Services:
    """The endpoint, and how to reach it."""

    core: Core
    module: InternalServices
    settings: Internal
    peers: list[Peer] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.core.endpoints.get("hono.internal")

    def peer(self, who: str = ADAPTER, **options: Any) -> Peer:
        """A component's connection; `who` is `user:password` as a URL has it."""
        url = options.pop("url", None) or f"amqp://{who}@{self.address}"
        return Peer(url, **options)


@asynccontextmanager
async def the_services(
    core: Core,
    downstream: Downstream | None = None,
    users: Users | None = None,
    tls_context: ssl.SSLContext | None = None,
    **changes: Any,
) -> AsyncIterator[Services]:
    """The internal services of `core` with Hono's sample users; `changes` are settings."""
    given: dict[str, Any] = {"enabled": True, "bind": FREE, "tls_bind": FREE, **changes}
    settings = Internal(**given)
    behind = Behind(
        registry=core.registry,
        provisioning=core.provisioning,
        commands=core.commands,
        downstream=downstream or core.consumer,
        usage=core.usage,
        last_gateways=core.last_gateways,
        metrics=core.metrics,
        tracer=core.tracer,
        traffic=core.traffic,
        database=core.registry._database,
        takers=downstream if isinstance(downstream, Messaging) else None,
    )
    known = sample_users(APPLICATIONS) if users is None else users
    module = internal_services(
        settings, core.endpoints, behind, known, make_tokens(settings), tls_context
    )
    async with running(module):
        yield Services(core, module, settings)


class Client:
    """Requests to one service over one connection, one after the other."""

    def __init__(self, peer: Peer, address: str, reply_id: str | None = None) -> None:
        self.peer = peer
        self.address = address
        self.reply_to = f"{address}/{reply_id or f'reply-{next(_numbers)}'}"
        self.is_listening = False

    def listen(self) -> None:
        """Open the receiver of answers."""
        self.is_listening = True
        self.peer.receive_from(self.reply_to)

    async def ask(
        self, operation: str, body: Any = None, properties: dict[str, Any] | None = None
    ) -> Answered:
        """Send a request and wait for its answer."""
        if not self.is_listening:
            self.listen()
            await self.peer.expect("attached")
        message = self.request(operation, body, properties)
        self.peer.send(self.address, message, str(message.id))
        while True:
            _, link, received = await self.peer.expect("message")
            if link == self.reply_to:
                assert received.correlation_id == message.id
                return Answered(received)

    def request(
        self, operation: str, body: Any = None, properties: dict[str, Any] | None = None
    ) -> Message:
        """A request as Hono's client writes it."""
        content = {} if body is None else {"content_type": "application/json"}
        message = Message(
            subject=operation,
            id=f"request-{next(_numbers)}",
            reply_to=self.reply_to,
            properties=properties,
            body=None if body is None else json.dumps(body).encode(),
            **content,
        )
        message.inferred = True
        return message


class Answered:
    """An answer, as Hono's client reads it."""

    def __init__(self, received: Received) -> None:
        self.received = received
        self.status = received.properties["status"]
        self.cache_control = received.properties.get("cache_control")
        self.text = (received.body or b"").decode()

    @property
    def body(self) -> Any:
        assert self.received.content_type == "application/json", (self.status, self.text)
        return json.loads(self.text)


__all__ = ["ADAPTER", "Client", "Messaging", "Services", "the_services", "until"]
