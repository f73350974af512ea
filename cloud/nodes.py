"""What a Node object's changes mean for the hub: its end, its revocation, its updates at the edge.

Deleting a Node ends its session, revokes what was issued to it, and forgets what it held; a deletion while
CloudCore was down is noticed at the next start, also where the Node was made again meanwhile. An update goes
to the edge unless only its own status reports changed it. Whether a Node is still heard of is for the cluster
to say: its node lifecycle controller reads the Leases.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cloud.catalog import STORE, Catalog
from cloud.certificates import Issued
from cloud.hub import CloudHub
from cloud.nodebook import NodeBook
from cloud.restrictions import CERTIFICATE, CLOUDCORE, REPLACED, TUNNEL
from cloud.sessions import stamp
from cloud.syncbook import SyncBook
from gateway.errors import GatewayError
from gateway.kube.informer import Change
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping
from gateway.wire.cloudedge.link import Ending, ObjectMessage
from gateway.wire.cloudedge.names import EDGE_LABEL, Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_edge import change_object, end_node

if TYPE_CHECKING:
    from gateway.config.cloud import CloudHub as HubSettings
    from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
DAY_SECONDS = 86_400.0
_OWN_WORDS = frozenset({CLOUDCORE, CERTIFICATE, REPLACED, STORE, TUNNEL})


class NodeWatch:
    """Module: does what Node changes ask for, one after another.

    Also a listener of the hub: a Node that changed while its edge was away goes there when it is back.
    """

    name = "cloud.nodes"

    def __init__(
        self,
        catalog: Catalog,
        hub: CloudHub,
        book: NodeBook,
        syncs: SyncBook,
        metrics: Metrics,
        settings: HubSettings,
    ) -> None:
        self._catalog = catalog
        self._hub = hub
        self._book = book
        self._syncs = syncs
        self._metrics = metrics
        self._settings = settings
        self._waiting: dict[tuple[str, bool], Change] = {}
        self._wake = asyncio.Event()
        self._unsent: dict[str, str] = {}
        """Nodes that others have changed and whose edges have not acknowledged it here, with the version."""
        catalog.on_node(self._note)
        hub.add_listener(self)

    async def run(self, ready: Callable[[], None]) -> None:
        await self._book.load(time.time())
        for name in self._book.registered:
            if self._is_gone(name):
                await self._deleted(name, self._certificate_elsewhere(name))  # while we were away
        for name in self._syncs.nodes:
            if self._catalog.node_annotations(name) is None:
                self._syncs.drop_node(name)  # whoever knew it
        ready()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._take(next(iter(self._waiting)))

    def _is_gone(self, name: str) -> bool:
        """True where the Node that was seen last is not there, also where another has its name."""
        node = self._catalog.nodes.objects.get(("", name))
        known = self._book.uid(name)
        return node is None or (bool(known) and ObjectMeta.read(node).uid != known)

    def _certificate_elsewhere(self, name: str) -> str:
        """Return the certificate with which a Node made anew registered at another CloudCore, "" for none.

        One that is in our book was issued before we went away, and with that before the deletion.
        """
        serial = (self._catalog.node_annotations(name) or {}).get(CERTIFICATE, "")
        return "" if self._book.is_known(serial) else serial

    def _note(self, change: Change) -> None:
        """Remember a change; several updates of a Node become one, a deletion stands for itself.

        A Node that was deleted and made again between two looks is both.
        """
        if change.old is not None and change.new is not None and _is_other(change.old, change.new):
            self._note(Change(change.key, change.old, None))
            change = Change(change.key, None, change.new)
        key = (change.key[1], change.new is None)
        earlier = self._waiting.pop(key, None)
        old = earlier.old if earlier else change.old
        self._waiting[key] = Change(change.key, old, change.new)
        self._wake.set()

    async def _take(self, key: tuple[str, bool]) -> None:
        """Do what one change asks for; where that cannot be kept now, it is done later."""
        change = self._waiting.pop(key)
        try:
            await self._on_change(change)
        except GatewayError as error:
            log.warning("node change must wait", extra={"node": key[0], "cause": error.message})
            self._waiting.setdefault(key, change)
            await asyncio.sleep(RETRY_SECONDS)

    async def _on_change(self, change: Change) -> None:
        name = change.key[1]
        if change.new is None:
            await self._deleted(name)
        elif EDGE_LABEL in ObjectMeta.read(change.new).labels:
            meta = ObjectMeta.read(change.new)
            await self._book.register(name, meta.uid)
            await self._take_replacement(name, meta.annotations.get(REPLACED, ""))
            self._pass_on(name, change)

    async def _deleted(self, name: str, spare: str = "") -> None:
        if self._settings.node_deletion_revokes and name in self._book.registered:
            now = time.time()
            if spare:
                await self._adopt(name, spare, now)
            await self._book.revoke(name, now, spare=spare)
            self._metrics.edge_certificates.labels("revoked").inc()
            log.info("node deleted: its certificates are revoked", extra={"node": name})
        await self._book.unregister(name)
        self._hub.push(name, end_node(stamp(), name))
        self._hub.end(name, Ending.NODE_DELETED)
        self._syncs.drop_node(name)
        self._unsent.pop(name, None)

    async def _take_replacement(self, name: str, word: str) -> None:
        """Revoke what a join with --replace at another CloudCore has replaced."""
        serial, _, date = word.partition(" ")
        if not date.isdecimal() or self._book.is_known(serial):
            return
        at = float(date)
        await self._adopt(name, serial, at)
        if at <= self._book.revoked_at(name):
            return  # what is older is revoked; later ones, as of a rotation, stay
        await self._book.revoke(name, at, spare=serial)
        self._hub.end(name, Ending.REVOKED)
        log.info("node replaced at another CloudCore", extra={"node": name, "serial": serial})

    async def _adopt(self, name: str, serial: str, at: float) -> None:
        """Note a certificate that another CloudCore has issued."""
        end = at + self._settings.certificate_days * DAY_SECONDS
        await self._book.issued(Issued(b"", name, serial, at, end))

    def _pass_on(self, name: str, change: Change) -> None:
        """Send the edge its Node when somebody else has changed it."""
        if change.old is None or change.new is None or _intent(change.old) == _intent(change.new):
            return
        self._send(name, change.new)

    def _send(self, name: str, node: JsonObject) -> None:
        """Send an edge its Node; where that cannot be now, it is noted and done once the edge is back."""
        meta = ObjectMeta.read(node)
        body: JsonObject = {"apiVersion": "v1", "kind": "Node", **node}
        envelope = change_object(
            stamp(), Subject(None, "node", name), Operation.UPDATE, body, version=meta.version
        )
        self._unsent[name] = meta.version
        self._hub.offer(name, ObjectMessage(meta.uid, meta.version, envelope))

    def _send_again(self, name: str) -> None:
        node = self._catalog.nodes.objects.get(("", name))
        if name in self._unsent and node is not None:
            self._send(name, node)

    def node_connected(self, node: str) -> None:
        self._send_again(node)

    def node_disconnected(self, node: str) -> None:
        """What it has not acknowledged stays noted."""

    def node_is_new(self, node: str) -> None:
        """It reads its Node itself when it registers."""

    def delivered(self, node: str, item: ObjectMessage) -> None:
        known = self._catalog.nodes.objects.get(("", node))
        is_node = known is not None and ObjectMeta.read(known).uid == item.key
        if is_node and self._unsent.get(node) == item.version:
            del self._unsent[node]


def _is_other(old: JsonObject, new: JsonObject) -> bool:
    return ObjectMeta.read(old).uid != ObjectMeta.read(new).uid


def _intent(node: JsonObject) -> tuple[Json, Json, Json]:
    """Return what others than the edge and its CloudCore decide about a Node."""
    meta = mapping(node.get("metadata"))
    said = mapping(meta.get("annotations")).items()
    annotations = {key: value for key, value in said if key not in _OWN_WORDS}
    return meta.get("labels"), annotations, node.get("spec")
