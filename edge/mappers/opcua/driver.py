"""Nodes of an OPC UA server as a Device: heard by subscription, written by type."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from edge.mappers.driver import Clock, DeviceUnreachable, Reading
from edge.mappers.opcua.addresses import NodeName, Server
from edge.mappers.opcua.links import Link, Links, Value, Wanted, Watch
from edge.mappers.readings import OWN_RULE, Latest, bad, reading_of, wanted_value
from gateway.errors import Rejected
from gateway.wire.cloudedge.values import ValueRule

ASK_AGAIN_SECONDS = 30.0
"""Pause before nodes that the server does not know are asked for again."""


class OpcUaDriver:
    """One Device's subscription on a session that Devices of the server share."""

    def __init__(
        self,
        server: Server,
        nodes: Mapping[str, NodeName],
        sampling: Mapping[str, int],
        rules: Mapping[str, ValueRule],
        faults: Mapping[str, str],
        links: Links,
        clock: Clock,
        latest: Latest,
        *,
        period: int,
    ) -> None:
        self._server = server
        self._nodes = nodes
        self._sampling = sampling
        self._rules = rules
        self._faults = faults
        self._links = links
        self._clock = clock
        self._latest = latest
        self._period = period
        self._changed: list[Callable[[], None]] = []
        self._link: Link | None = None
        self._watch: Watch | None = None
        self._is_lost = False
        self._next_ask = 0.0

    async def connect(self) -> None:
        link = self._link = self._link or self._links.take(self._server)
        await link.open()
        link.on_lost(self._lost)
        self._watch = await link.client.watch(self._period, self._hear)
        await self._ask(list(self._nodes))

    async def _ask(self, names: Sequence[str]) -> None:
        if self._watch is not None and names:
            self._next_ask = asyncio.get_running_loop().time() + ASK_AGAIN_SECONDS
            await self._watch.add([Wanted(n, self._nodes[n], self._sampling[n]) for n in names])

    def _hear(self, name: str, value: Value) -> None:
        at = value.at or self._clock()
        if value.value is None:
            self._latest.take(name, bad(value.why or "the server has no value", at))
            return
        rule = self._rules.get(name, OWN_RULE)
        reading = reading_of(rule, value.value, at, value.quality, value.why)
        self._latest.take(name, reading)

    def _lost(self) -> None:
        self._is_lost = True
        for changed in self._changed:
            changed()

    async def read(self, names: Sequence[str]) -> Mapping[str, Reading]:
        if self._is_lost or self._watch is None:
            raise DeviceUnreachable(f"{self._server.url}: the connection was lost")
        refused = self._watch.refused
        if refused and asyncio.get_running_loop().time() >= self._next_ask:
            await self._ask(list(refused))
        unheard = {n: bad(refused[n], self._clock()) for n in names if n in refused}
        return {**self._latest.read(names), **unheard}

    async def write(self, name: str, text: str) -> None:
        node = self._nodes.get(name)
        if node is None or self._link is None:
            raise Rejected(self._faults.get(name, f"{name} has no node"))
        if self._is_lost:
            raise DeviceUnreachable(f"{self._server.url}: the connection was lost")
        value = wanted_value(self._rules.get(name, OWN_RULE), text)
        await self._link.client.write(node, value)

    def faults(self) -> Mapping[str, str]:
        return {**self._faults, **({} if self._watch is None else self._watch.refused)}

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)
        self._latest.subscribe(changed)

    async def close(self) -> None:
        self._changed.clear()
        self._latest.close()
        link, self._link = self._link, None
        if link is None:
            return
        link.forget(self._lost)
        if self._watch is not None and not self._is_lost:
            await self._watch.close()
        await self._links.give_back(link)
