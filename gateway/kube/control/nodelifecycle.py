"""Nodes that fall silent: what is said of them, what keeps Pods away, when their Pods go.

Who owns what of a Node: its conditions are its own, and ours once it has said nothing for `GRACE_SECONDS`
(neither renewed its Lease nor posted its status); only it can say that it is ready again. Taints
`node.kubernetes.io/*` for conditions and for being cordoned are ours. Pods of a lost Node go some time after
it got a taint with NoExecute, which it gets while another Node is heard of (else it is we who are cut off),
one Node at a time, and never where it is an edge: an edge is away at times, and what runs there goes on.

All spans are of our own clock: what nodes say about the time does not matter, nor does setting it.
Source: Kubernetes, "Nodes", "Taint based Evictions"; node lifecycle controller.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial

from gateway.errors import Conflict, GatewayError, NotFound
from gateway.kube.client import PatchType
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import metadata_of, uid_of
from gateway.kube.events import WARNING
from gateway.kube.informer import Change
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.conditions import is_true
from gateway.wire.kube.nodehealth import (
    READY,
    evicting_taints,
    heartbeat,
    is_edge,
    readiness,
    settled_taints,
    silence,
    sparing_taints,
)
from gateway.wire.kube.parts import part, text

log = logging.getLogger(__name__)

COMPONENT = "node-controller"
LEASES, LEASE_NAMESPACE = "coordination.k8s.io/v1", "kube-node-lease"
PERIOD_SECONDS = 5.0
GRACE_SECONDS, START_SECONDS = 45.0, 60.0
"""How long a Node may say nothing; how long a new one may take to say something."""
STALL_SECONDS = 15.0
"""Who has not looked for so long has slept: nobody could be heard meanwhile."""
EVICTION_SECONDS, SLOW_SECONDS = 10.0, 100.0
"""Between two Nodes whose Pods are to go; where much of a large cluster is lost."""
PARTIAL, PARTIAL_LEAST, LARGE = 0.55, 3, 50
"""The share of lost Nodes, and how many at least, that look like a fault elsewhere; a large cluster."""


@dataclass(slots=True)
class _Heard:
    uid: str
    at: float
    has_pods_told: bool = False
    """True once its Pods were told that it is lost."""


def pods_by_node(pod: JsonObject) -> tuple[str, ...]:
    """Mark Pods by their node, for `Mirror.index`."""
    name = text(part(pod, "spec").get("nodeName"))
    return (name,) if name else ()


class NodeLifecycle:
    """Looks at all Nodes every few seconds, and at one at once when it changes."""

    def __init__(self, context: Context, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube, self._events = context.kube, context.events
        self._now, self._clock = context.now, clock
        self._nodes = context.mirrors.of("v1", "nodes")
        self._pods = context.mirrors.of("v1", "pods")
        self._of_node = self._pods.index("node", pods_by_node)
        self._leases = context.mirrors.of(LEASES, "leases")
        self._loop: Loop[str] = Loop(self._settle)
        self._heard: dict[str, _Heard] = {}
        self._was_ready: dict[str, bool] = {}
        self._looked = clock()
        self._evicts_at = 0.0
        self._was_cut_off = True
        self._nodes.on_change(self._node_changed)
        self._leases.on_change(self._lease_changed)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop.run())
            while True:
                await self.look()
                await asyncio.sleep(PERIOD_SECONDS)

    # --- signs of life ----------------------------------------------------------------------------------

    def _node_changed(self, change: Change) -> None:
        name = change.key[1]
        if change.new is None:
            self._heard.pop(name, None)
            self._was_ready.pop(name, None)
            self._tell_of_node(
                change.old or {}, "RemovingNode", f"event: Removing Node {name} from Controller"
            )
            return
        known = self._heard.get(name)
        if known is None or known.uid != uid_of(change.new):
            self._heard[name] = _Heard(uid_of(change.new), self._clock())
            self._tell_of_node(
                change.new, "RegisteredNode", f"event: Registered Node {name} in Controller"
            )
        elif change.old is None or heartbeat(change.old) != heartbeat(change.new):
            known.at = self._clock()
        self._loop.poke(name)

    def _lease_changed(self, change: Change) -> None:
        namespace, name = change.key
        known = self._heard.get(name)
        if namespace != LEASE_NAMESPACE or change.new is None or known is None:
            return
        if change.old is None or _renewed(change.old) != _renewed(change.new):
            known.at = self._clock()

    # --- one node -----------------------------------------------------------------------------------------

    async def _settle(self, name: str) -> None:
        """Bring a Node's taints in line with what it says, and tell its Pods when it is lost."""
        node = self._nodes.get(None, name)
        if node is None:
            return
        await self._write_taints(node, settled_taints(node, self._now()))
        await self._follow_readiness(node)

    async def _follow_readiness(self, node: JsonObject) -> None:
        name, ready = metadata_name(node), readiness(node)
        was_ready = self._was_ready.get(name)
        self._was_ready[name] = ready == "True"
        heard = self._heard.get(name)
        if heard is None or not ready:
            return
        if ready == "True":
            heard.has_pods_told = False
            return
        if was_ready:
            self._tell_of_node(node, "NodeNotReady", "status is now: NodeNotReady")
        if heard.has_pods_told or not (was_ready or ready == "Unknown"):
            return
        for pod in self._of_node.get(name):
            await self._pod_not_ready(pod)
        heard.has_pods_told = True

    async def _pod_not_ready(self, pod: JsonObject) -> None:
        """Say of a Pod that it does not serve: its node is lost."""
        if not is_true(pod, READY):
            return
        meta = metadata_of(pod)
        condition: JsonObject = {
            "type": READY,
            "status": "False",
            "lastTransitionTime": rfc3339(self._now()),
        }
        patch: JsonObject = {
            "metadata": {"uid": meta.get("uid")},
            "status": {"conditions": [condition]},
        }
        try:
            await self._kube.patch(
                "v1", "pods", text(meta.get("namespace")), text(meta.get("name")), patch,
                patch_type=PatchType.STRATEGIC, subresource="status",
            )  # fmt: skip
        except (NotFound, Conflict):
            return  # it is gone, or another one
        about: JsonObject = {"apiVersion": "v1", "kind": "Pod", **pod}
        self._events.record(
            about, "NodeNotReady", "Node is not ready", type_=WARNING, component=COMPONENT
        )

    async def _write_taints(self, node: JsonObject, taints: list[Json] | None) -> None:
        """Errors: Conflict where the Node has changed meanwhile; it is looked at again."""
        if taints is None:
            return
        meta = metadata_of(node)
        patch: JsonObject = {
            "metadata": {"resourceVersion": meta.get("resourceVersion")},
            "spec": {"taints": taints or None},
        }
        try:
            self._nodes.put(
                await self._kube.patch("v1", "nodes", None, text(meta.get("name")), patch)
            )
        except NotFound:
            return

    # --- all nodes ------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look at all Nodes once."""
        now = self._clock()
        if now - self._looked > STALL_SECONDS:
            self._hear_all(now)
        self._looked = now
        for name in list(self._nodes.objects):
            await self._attempt(partial(self._check, name[1], now))
        await self._evict(now)

    async def _attempt(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        try:
            await work()
        except GatewayError as error:  # looked at again with the next round
            log.info("a Node must wait", extra={"cause": error.message})

    def _hear_all(self, now: float) -> None:
        for heard in self._heard.values():
            heard.at = now

    async def _check(self, name: str, now: float) -> None:
        node, heard = self._nodes.get(None, name), self._heard.get(name)
        if node is None or heard is None:
            return
        grace = GRACE_SECONDS if readiness(node) else START_SECONDS
        if now - heard.at <= grace or readiness(node) == "Unknown":
            return
        patch: JsonObject = {
            "metadata": {"resourceVersion": metadata_of(node).get("resourceVersion")},
            "status": {"conditions": silence(node, self._now())},
        }
        self._was_ready.setdefault(name, readiness(node) == "True")
        written = await self._kube.patch(
            "v1", "nodes", None, name, patch, patch_type=PatchType.STRATEGIC, subresource="status"
        )
        self._nodes.put(written)
        log.info("a node is lost", extra={"node": name})

    async def _evict(self, now: float) -> None:
        """Let the Pods of a lost Node go, if it is the Node that is lost and not we."""
        nodes = list(self._nodes.objects.values())
        is_cut_off = not any(readiness(node) == "True" for node in nodes)
        if is_cut_off:
            if not self._was_cut_off:
                log.warning("no node is heard of: nothing is evicted", extra={"nodes": len(nodes)})
            self._was_cut_off = True
            for node in nodes:
                await self._attempt(partial(self._write_taints, node, sparing_taints(node)))
            return
        if self._was_cut_off:
            self._was_cut_off = False
            self._hear_all(now)
        pause = _pause([node for node in nodes if not is_edge(node)])
        for node in nodes:
            await self._attempt(partial(self._evict_from, node, now, pause))

    async def _evict_from(self, node: JsonObject, now: float, pause: float | None) -> None:
        if is_edge(node):
            await self._write_taints(node, sparing_taints(node))
            return
        taints = evicting_taints(node, self._now())
        if taints is not None and pause is not None and now >= self._evicts_at:
            await self._write_taints(node, taints)
            self._evicts_at = now + pause

    def _tell_of_node(self, node: JsonObject, reason: str, what: str) -> None:
        name = metadata_name(node)
        about: JsonObject = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid_of(node)}
        self._events.record(about, reason, f"Node {name} {what}", component=COMPONENT)


def metadata_name(item: JsonObject) -> str:
    """Return an object's name."""
    return text(metadata_of(item).get("name"))


def _renewed(lease: JsonObject) -> Json:
    return part(lease, "spec").get("renewTime")


def _pause(nodes: list[JsonObject]) -> float | None:
    """How many seconds lie between two Nodes that are given up; None where none is."""
    lost = sum(readiness(node) != "True" for node in nodes)
    if lost < PARTIAL_LEAST or lost / len(nodes) < PARTIAL or lost == len(nodes):
        return EVICTION_SECONDS
    return SLOW_SECONDS if len(nodes) > LARGE else None
