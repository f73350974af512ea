"""Connections to servers that several Devices share. What a library must do for them is `Client`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge.mappers.driver import DeviceUnreachable, Quality
from edge.mappers.opcua.addresses import NodeName, Server
from gateway.model.json import JsonObject
from gateway.runtime.backoff import Backoff
from gateway.wire.cloudedge.values import Typed

RETRY_FIRST, RETRY_CAP = 0.3, 5.0


@dataclass(frozen=True, slots=True)
class Value:
    """What a server says of a node: plain Python, its quality, and the source's time in ms, 0 without one."""

    value: object
    quality: Quality
    at: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A node that somebody wants to hear of. Units: `sampling` in ms."""

    name: str
    node: NodeName
    sampling: int


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable found by browsing."""

    path: tuple[str, ...]
    node: str
    type: str
    is_writable: bool
    description: str = ""


class Watch(Protocol):
    """One Device's subscription."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Return the nodes that cannot be heard, by property, and why."""

    async def add(self, wanted: Sequence[Wanted]) -> None:
        """Subscribe to more nodes; those that cannot be are in `refused`."""

    async def close(self) -> None:
        """Unsubscribe; never raises."""


Heard = Callable[[str, Value], None]


class Client(Protocol):
    """One session. Errors of all: DeviceUnreachable; Rejected for what somebody must change."""

    @property
    def is_open(self) -> bool: ...
    async def open(self) -> None: ...
    async def watch(self, period: int, heard: Heard) -> Watch:
        """Make a subscription. Units: `period` of its messages in ms."""

    async def write(self, node: NodeName, value: Typed) -> None: ...
    async def variables(self, start: NodeName | None, most: int) -> list[Variable]: ...
    async def identity(self) -> dict[str, str]: ...
    async def close(self) -> None: ...


ClientFactory = Callable[[Server, Callable[[], None]], Client]
"""Makes a client; the second argument is called when its connection is lost."""


class Link:
    """One server's session, opened by the first Device that needs it."""

    def __init__(self, server: Server, make: ClientFactory) -> None:
        self.server = server
        self.client = make(server, self._lost)
        self.users = 0
        self._lock = asyncio.Lock()
        self._backoff = Backoff(RETRY_FIRST, RETRY_CAP)
        self._closed_until = 0.0
        self._why = ""
        self._told: list[Callable[[], None]] = []

    async def open(self) -> None:
        """Have the session; one try serves all who wait. Errors: of `Client.open`."""
        async with self._lock:
            now = asyncio.get_running_loop().time
            if self.client.is_open:
                return
            if self._closed_until > now():
                raise DeviceUnreachable(self._why)
            try:
                await self.client.open()
            except DeviceUnreachable as error:
                self._why = error.message
                self._closed_until = now() + self._backoff.next()
                raise
            self._backoff.reset()

    def on_lost(self, told: Callable[[], None]) -> None:
        """Call `told` when the session is lost."""
        self._told.append(told)

    def forget(self, told: Callable[[], None]) -> None:
        if told in self._told:
            self._told.remove(told)

    def _lost(self) -> None:
        for told in list(self._told):
            told()


class Links:
    """The servers in use."""

    def __init__(self, make: ClientFactory) -> None:
        self._make = make
        self._links: dict[Server, Link] = {}

    def take(self, server: Server) -> Link:
        """Return the link to a server; give it back with `give_back`."""
        link = self._links.get(server)
        if link is None:
            link = self._links[server] = Link(server, self._make)
        link.users += 1
        return link

    async def give_back(self, link: Link) -> None:
        """Say that somebody is done; the last one closes the session."""
        link.users -= 1
        if link.users <= 0:
            self._links.pop(link.server, None)
            await link.client.close()

    async def close(self) -> None:
        for link in list(self._links.values()):
            await link.client.close()
        self._links.clear()

    def facts(self) -> JsonObject:
        return {
            server.url: {
                "open": link.client.is_open,
                "devices": link.users,
                "security": server.policy or "None",
            }
            for server, link in self._links.items()
        }
