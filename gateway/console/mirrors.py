"""Nodes, Devices, Pods and discovered devices in memory, in short forms; only once somebody looks.

The first request for any of it starts the watches; they go on as long as the process does. Requests wait
for the first lists, for a while. What is kept of each object is what lists and events need.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from gateway.console.changes import Feed
from gateway.console.fleet import (
    NO_STATUS,
    Device,
    Status,
    device_row,
    gone_row,
    node_row,
    pod_row,
)
from gateway.errors import Undeliverable
from gateway.kube.client import KubeClient
from gateway.kube.informer import Change, Informer
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import DEVICES, GROUP_VERSION, STATUSES, mapping, text

log = logging.getLogger(__name__)

READY_SECONDS: Final = 10.0
DISCOVERED: Final = ("devices.twinspan.io/v1alpha1", "discovereddevices")
Key = tuple[str, str]


class CloudFacts(Protocol):
    """What CloudCore knows beside the API (`cloud.facts.CloudFacts`)."""

    def link_since(self, node: str) -> float | None:
        """When a node's link was made, seconds since the epoch; None without one."""

    def certificates(self, node: str) -> tuple[int, float | None]:
        """How many certificates of a node count, and when others were revoked last."""

    def thing_id(self, namespace: str, name: str) -> str | None:
        """The thing of a Device, None where it has none."""


class DeviceIndex:
    """Devices by name and by node, with their statuses."""

    def __init__(self) -> None:
        self.devices: dict[Key, Device] = {}
        self.statuses: dict[Key, Status] = {}
        self.order: list[Key] = []
        """(name, namespace) of all, sorted."""
        self._by_node: defaultdict[str, list[Key]] = defaultdict(list)

    def put(self, key: Key, device: Device | None) -> None:
        """Take in a Device; None: it is gone."""
        old = self.devices.pop(key, None)
        place = (key[1], key[0])
        if old is not None and (device is None or device.node != old.node):
            _remove(self._by_node[old.node], place)
            if not self._by_node[old.node]:
                del self._by_node[old.node]
        if old is None and device is not None:
            insort(self.order, place)
        if device is None:
            if old is not None:
                _remove(self.order, place)
            return
        self.devices[key] = device
        if old is None or old.node != device.node:
            insort(self._by_node[device.node], place)

    def status(self, device: Device) -> Status:
        found = self.statuses.get((device.namespace, device.name))
        return NO_STATUS if found is None else found.of(device)

    def of_node(self, node: str) -> list[Key]:
        """(name, namespace) of a node's Devices, sorted. Not to be changed."""
        return self._by_node.get(node, [])

    def in_state(self, places: Iterable[Key], fits: Callable[[str], bool]) -> list[Key]:
        """Those of these whose state fits."""
        states, devices, nothing = self.statuses, self.devices, fits(NO_STATUS.state)
        return [
            (name, namespace)
            for name, namespace in places
            if (
                fits(found.of(devices[namespace, name]).state)
                if (found := states.get((namespace, name))) is not None
                else nothing
            )
        ]

    def online(self, places: Iterable[Key]) -> int:
        """How many of these are online."""
        states = self.statuses
        return sum(
            (found := states.get((namespace, name))) is not None
            and found.of(self.devices[namespace, name]).state == "online"
            for name, namespace in places
        )


def _remove(places: list[Key], place: Key) -> None:
    at = bisect_left(places, place)
    if at < len(places) and places[at] == place:
        del places[at]


class Mirrors:
    """Module: the watches, from the first request on."""

    name = "console.mirrors"

    def __init__(
        self,
        kube: KubeClient,
        cloud: CloudFacts | None = None,
        show_discovered: Callable[[JsonObject], JsonObject] = dict,
    ) -> None:
        self._show_discovered = show_discovered
        self._wanted = asyncio.Event()
        self._known = asyncio.Event()
        self._left: set[str] = set()
        """Watches that have not told their first list."""
        self._cloud = cloud
        self.feed = Feed()
        self.index = DeviceIndex()
        self.pods_of: defaultdict[str, int] = defaultdict(int)
        self._node_rows: dict[str, tuple[JsonObject, JsonObject]] = {}
        """Of each Node that was asked for the object and its row."""
        group, plural = DISCOVERED
        self.nodes = Informer(kube, "v1", "nodes", self._node, trim=_without_noise)
        self.pods = Informer(kube, "v1", "pods", self._pod, trim=_short_pod)
        self.devices = Informer(
            kube, GROUP_VERSION, DEVICES, self._device, trim=_named, is_needed=False
        )
        self.statuses = Informer(
            kube, GROUP_VERSION, STATUSES, self._status, trim=_named, is_needed=False
        )
        self.discovered = Informer(
            kube, group, plural, self._seen, trim=_without_noise, is_needed=False
        )

    async def run(self, ready: Callable[[], None]) -> None:
        ready()
        await self._wanted.wait()
        waiting = [self.nodes, self.pods, self.statuses, self.devices, self.discovered]
        left = self._left
        left |= {each.name for each in waiting}

        def known(name: str) -> None:
            left.discard(name)
            if not left:
                self._known.set()

        async with asyncio.TaskGroup() as group:
            for each in waiting:
                name = each.name
                group.create_task(each.run(lambda name=name: known(name)), name=name)  # type: ignore[misc]

    async def known(self) -> None:
        """Return once everything is known that may be read; a kind that stays silent is left out.

        Errors: Undeliverable when not even Nodes are known after a while.
        """
        self._wanted.set()
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._known.wait()
        except TimeoutError as error:
            if not self._left or self.nodes.name in self._left:
                raise Undeliverable("The Kubernetes API has not answered yet.") from error
            log.warning("console: some kinds cannot be read", extra={"kinds": sorted(self._left)})
            self._known.set()

    @property
    def is_known(self) -> bool:
        return self._known.is_set()

    # --- short forms ----------------------------------------------------------------------------------

    def node(self, node: JsonObject) -> JsonObject:
        """A Node with its counts and its link."""
        name = text(mapping(node.get("metadata")).get("name"))
        known = self._node_rows.get(name)
        if known is None or known[0] is not node:
            known = self._node_rows[name] = node, node_row(node)
        mine = self.index.of_node(name)
        link: JsonObject | None = None
        if self._cloud is not None:
            since = self._cloud.link_since(name)
            link = {"connected": since is not None, "since": since}
        return {
            **known[1],
            "link": link,
            "devices": len(mine),
            "devices_online": self.index.online(mine),
            "pods": self.pods_of.get(name, 0),
        }

    def device(self, device: Device) -> JsonObject:
        """A Device with its state."""
        cloud, status = self._cloud, self.index.status(device)
        thing = cloud.thing_id(device.namespace, device.name) if cloud is not None else None
        return device_row(device, status, thing)

    # --- what the watches tell ------------------------------------------------------------------------

    def _tell(self, kind: str, change: Change, show: Callable[[], JsonObject]) -> None:
        if not self.is_known:
            return
        namespace, name = change.key
        if change.new is None:
            self.feed.tell(kind, "gone", namespace, name, lambda: gone_row(namespace, name))
        else:
            word = "added" if change.old is None else "changed"
            self.feed.tell(kind, word, namespace, name, show)

    def _node(self, change: Change) -> None:
        node = change.new
        if node is None:
            self._node_rows.pop(change.key[1], None)
        self._tell("nodes", change, lambda: self.node(node or {}))

    def _pod(self, change: Change) -> None:
        for item, step in ((change.old, -1), (change.new, 1)):
            if item is not None and (name := _node_of(item)):
                self.pods_of[name] += step
        pod = change.new
        self._tell("pods", change, lambda: pod_row(pod or {}))

    def _device(self, change: Change) -> None:
        device = None if change.new is None else Device.read(change.new)
        before = self.index.devices.get(change.key)
        self.index.put(change.key, device)
        if (device and device.node) != (before and before.node):
            self._recount(before)
            self._recount(device)
        self._tell("devices", change, lambda: {} if device is None else self.device(device))

    def _status(self, change: Change) -> None:
        device = self.index.devices.get(change.key)
        before = self.index.statuses.pop(change.key, NO_STATUS)
        if change.new is not None:
            self.index.statuses[change.key] = Status.read(change.new)
        if device is None or not self.is_known:
            return
        known = device
        self.feed.tell("devices", "changed", *change.key, lambda: self.device(known))
        if self.index.statuses.get(change.key, NO_STATUS).state != before.state:
            self._recount(device)

    def _recount(self, device: Device | None) -> None:
        """A node's counts have changed."""
        node = self.nodes.objects.get(("", device.node)) if device is not None else None
        if node is not None and self.is_known and device is not None:
            self.feed.tell("nodes", "changed", "", device.node, lambda: self.node(node))

    def _seen(self, change: Change) -> None:
        found = change.new
        self._tell("discovered", change, lambda: self._show_discovered(found or {}))

    def link_changed(self, node: str) -> None:
        """A node's link came or went."""
        found = self.nodes.objects.get(("", node))
        if found is not None and self.is_known:
            self.feed.tell("nodes", "changed", "", node, lambda: self.node(found))


def _node_of(pod: JsonObject) -> str:
    return text(mapping(pod.get("spec")).get("nodeName"))


def _named(item: JsonObject) -> JsonObject:
    """What tells an object and its version; the index has the rest."""
    meta = mapping(item.get("metadata"))
    kept = ("namespace", "name", "uid", "resourceVersion")
    return {"metadata": {each: meta[each] for each in kept if each in meta}}


def _without_noise(item: JsonObject) -> JsonObject:
    meta = {k: v for k, v in mapping(item.get("metadata")).items() if k != "managedFields"}
    status = {k: v for k, v in mapping(item.get("status")).items() if k != "images"}
    return {**item, "metadata": meta, **({"status": status} if "status" in item else {})}


def _short_pod(item: JsonObject) -> JsonObject:
    """A Pod as lists need it; its specification stays where it is."""
    meta, spec = mapping(item.get("metadata")), mapping(item.get("spec"))
    status = mapping(item.get("status"))
    kept_meta = (
        *("namespace", "name", "uid", "resourceVersion"),
        *("ownerReferences", "creationTimestamp", "deletionTimestamp"),
    )
    containers = spec.get("containers")
    return {
        "metadata": {each: meta[each] for each in kept_meta if each in meta},
        "spec": {
            "nodeName": spec.get("nodeName"),
            "containers": [
                {"name": mapping(each).get("name")}
                for each in (containers if isinstance(containers, list) else [])
            ],
        },
        "status": {
            each: status[each]
            for each in ("phase", "podIP", "reason", "conditions", "containerStatuses")
            if each in status
        },
    }
