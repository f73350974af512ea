"""What mappers at nodes see, as DiscoveredDevice objects.

The CloudCore that a node is connected to writes what the node says, one object after another. A node may have
`MAX_PER_NODE` of them and `NEW_A_MINUTE` new ones once it had that many; more are refused and counted, and
told again by the edge later. An object goes when the node says that the device is gone, or does not name it
any more; when its Node goes; and when nobody has seen the device for long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from cloud.chores import Chores
from cloud.discovered import (
    DISCOVERED,
    NODE_LABEL,
    PLURAL,
    name_of,
    new_object,
    replacing,
    says_more,
    sight_status,
)
from gateway.errors import BadRequest, GatewayError, NotFound
from gateway.kube.informer import Change, Informer
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text
from gateway.wire.cloudedge.discoveries import SeenDevice, Sightings, clean
from gateway.wire.kube.clock import parse_rfc3339
from gateway.wire.kube.status import AlreadyExists

if TYPE_CHECKING:
    from cloud.catalog import Catalog
    from cloud.hub import CloudHub
    from cloud.ports import Leadership
    from cloud.sessions import Inbound
    from gateway.kube.client import KubeClient
    from gateway.observe.mapper_metrics import MapperMetrics

log = logging.getLogger(__name__)

MAX_PER_NODE = 200
NEW_A_MINUTE = 30
WRITE_SECONDS = 0.02
"""Shortest time from one write to the next: strangers' radios must not keep the API busy."""
SWEEP_SECONDS = 60.0
UNTOLD_SECONDS = 600.0
"""A connected node that has not named a device for so long does not see it any more."""
FORGET_SECONDS = 7 * 86_400.0
"""What was not seen for so long goes, whatever its node says."""


@dataclass(slots=True)
class _Node:
    """What one connected node sees, by the names of objects, and how many new ones it may name."""

    since: float
    filled: float
    purse: float = float(MAX_PER_NODE)
    seen: dict[str, SeenDevice] = field(default_factory=dict)

    def may_add(self, now: float) -> bool:
        self.purse = min(self.purse + (now - self.filled) * NEW_A_MINUTE / 60, float(MAX_PER_NODE))
        self.filled = now
        if self.purse < 1 or len(self.seen) >= MAX_PER_NODE:
            return False
        self.purse -= 1
        return True


class Discoveries:
    """Module: one worker. Call `attach` once."""

    name = "cloud.discoveries"

    def __init__(
        self,
        kube: KubeClient,
        catalog: Catalog,
        leadership: Leadership,
        metrics: MapperMetrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._catalog = catalog
        self._leadership = leadership
        self._metrics = metrics
        self._now = now
        self._nodes: dict[str, _Node] = {}
        self._gone: dict[str, None] = {}
        self._chores: Chores[str] = Chores()
        self._listeners: list[Callable[[Change], None]] = []
        self._informer = Informer(kube, DISCOVERED, PLURAL, self._changed, is_needed=False)

    def attach(self, hub: CloudHub) -> None:
        """Take what nodes say; of one node in order."""
        hub.on(Sightings, self.on_sightings, lambda _: None)
        hub.add_listener(self)

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Tell `listener` of each change of an object; before `run`."""
        self._listeners.append(listener)

    @property
    def objects(self) -> dict[tuple[str, str], JsonObject]:
        """All objects as last seen: read, never change."""
        return self._informer.objects

    def _changed(self, change: Change) -> None:
        for listener in self._listeners:
            listener(change)

    # --- what nodes say -----------------------------------------------------------------------------

    async def on_sightings(self, inbound: Inbound, message: Sightings) -> None:
        """Note what a node sees; nobody answers."""
        clock = asyncio.get_running_loop().time()
        node = self._nodes.setdefault(inbound.node, _Node(clock, clock))
        for device in message.seen:
            taken = self._take(inbound.node, node, device, clock)
            self._metrics.discoveries.labels("taken" if taken else "refused").inc()
        for key, glimpse in message.still.items():
            name = name_of(inbound.node, key)
            if name in node.seen:
                node.seen[name] = replace(
                    node.seen[name], last=glimpse.last, signal=max(-200, min(glimpse.signal, 50))
                )
                self._chores.add((name,))
        for key in message.gone:
            if "." not in key:  # else it would be the name of what another node sees
                self._lose(node, name_of(inbound.node, key))

    def _take(self, name: str, node: _Node, found: SeenDevice, now: float) -> bool:
        try:
            device = clean(found)
        except BadRequest as error:
            log.info("a sight of no use", extra={"node": name, "cause": error.message})
            return False
        full = name_of(name, device.key)
        if full not in node.seen and not node.may_add(now):
            return False
        node.seen[full] = device
        self._gone.pop(full, None)
        self._chores.add((full,))
        return True

    def _lose(self, node: _Node, name: str) -> None:
        if node.seen.pop(name, None) is not None or ("", name) in self.objects:
            self._gone[name] = None
            self._chores.add((name,))

    # --- NodeListener -------------------------------------------------------------------------------

    def node_connected(self, node: str) -> None:
        """It tells all that it sees anew."""
        clock = asyncio.get_running_loop().time()
        self._nodes[node] = _Node(clock, clock)

    def node_disconnected(self, node: str) -> None:
        """What it saw stays, until it says otherwise or is away for long."""
        self._nodes.pop(node, None)

    def node_is_new(self, node: str) -> None:
        """Its mappers see what they see."""

    def delivered(self, node: str, item: object) -> None:
        """Nothing is sent to nodes from here."""

    # --- module -------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run(lambda: None), name="cloud.discoveries watch")
            group.create_task(self._sweep_ever(), name="cloud.discoveries sweep")
            ready()
            while True:
                name = await self._chores.next()
                try:
                    await self._write(name)
                except NotFound:
                    self._chores.again(name)  # deleted meanwhile, or the kind is not served (yet)
                except GatewayError as error:
                    log.warning("a sight is not written", extra={"cause": error.message})
                    self._chores.again(name)
                else:
                    self._chores.done(name)
                await asyncio.sleep(WRITE_SECONDS)

    async def _write(self, name: str) -> None:
        node, device = self._sight(name)
        if device is None:
            if name in self._gone:
                await self._delete(name)
            return
        known = self.objects.get(("", name))
        if known is None:
            known = await self._make(node, device)
        before = mapping(known.get("status"))
        status = sight_status(node, device)
        if says_more(status, before):
            patch: JsonObject = {"status": replacing(status, before)}
            await self._kube.patch(DISCOVERED, PLURAL, None, name, patch, subresource="status")

    async def _make(self, node: str, device: SeenDevice) -> JsonObject:
        owner = self._catalog.nodes.objects.get(("", node))
        uid = "" if owner is None else ObjectMeta.read(owner).uid
        try:
            return await self._kube.create(DISCOVERED, PLURAL, None, new_object(node, device, uid))
        except AlreadyExists:
            return await self._kube.get(DISCOVERED, PLURAL, None, name_of(node, device.key))

    async def _delete(self, name: str) -> None:
        try:
            await self._kube.delete(DISCOVERED, PLURAL, None, name)
        except NotFound:
            log.debug("an object was gone already", extra={"object": name})
        self._gone.pop(name, None)

    def _sight(self, name: str) -> tuple[str, SeenDevice | None]:
        node = name.rpartition(".")[0]
        known = self._nodes.get(node)
        return node, None if known is None else known.seen.get(name)

    # --- what goes by itself ------------------------------------------------------------------------

    async def _sweep_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for name in list(self._forgotten()):
                self._gone[name] = None
                self._chores.add((name,))

    def _forgotten(self) -> Iterator[str]:
        """Yield the names of objects that nobody sees any more."""
        clock = asyncio.get_running_loop().time()
        for (_, name), document in self.objects.items():
            node, device = self._sight(name)
            if device is not None or ObjectMeta.read(document).labels.get(NODE_LABEL) != node:
                continue
            known = self._nodes.get(node)
            if known is not None:
                if clock - known.since >= UNTOLD_SECONDS:
                    yield name
            elif self._leadership.leads and self._is_over(node, document):
                yield name

    def _is_over(self, node: str, document: JsonObject) -> bool:
        if ("", node) not in self._catalog.nodes.objects:
            return True
        said = text(mapping(document.get("status")).get("lastSeen"))
        made = text(mapping(document.get("metadata")).get("creationTimestamp"))
        seen = parse_rfc3339(said) or parse_rfc3339(made) or 0.0
        return self._now() - seen >= FORGET_SECONDS
