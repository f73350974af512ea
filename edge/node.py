"""The Node object of this machine: registered, kept Ready, its Lease renewed.

What the edge sends is what KubeEdge's kubelet fork sends: query and insert of the Lease, insert of the Node,
strategic merge patches of its status. All of it is repeated from scratch after each reconnect, so nothing
is kept.

Source: KubeEdge reference, sections 9, 10.1, 22.1, 22.2; Kubernetes Node and Lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import msgspec

from edge.clock import now_ms, rfc3339_micro, stamp
from edge.hub import Sender
from edge.machine import Machine
from gateway.errors import GatewayError, Undeliverable
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from gateway.wire.cloudedge.to_cloud import ask
from gateway.wire.cloudedge.to_edge import ApiFailure, read_result

log = logging.getLogger(__name__)

LEASE_SECONDS = 40
RENEW_SECONDS = 10.0
REPORT_SECONDS = 300.0
RETRY_SECONDS = 5.0
LEASE_NAMESPACE = "kube-node-lease"


def lease(
    node: str, now: int, stored: JsonObject | None, owner: JsonObject | None = None
) -> JsonObject:
    """Return the Lease to write: a new one, or the stored one renewed; it ends with its Node, `owner`."""
    spec: JsonObject = {
        "holderIdentity": node,
        "leaseDurationSeconds": LEASE_SECONDS,
        "renewTime": rfc3339_micro(now),
    }
    if stored is not None:
        known = stored.get("metadata")
        kept: JsonObject = {} if not isinstance(known, dict) else dict(known)
        kept.pop("managedFields", None)  # stays as it is, and is more than all the rest
        return {**stored, "metadata": {**_owned(node, owner), **kept}, "spec": spec}
    metadata: JsonObject = {"name": node, "namespace": LEASE_NAMESPACE, **_owned(node, owner)}
    return {
        "kind": "Lease",
        "apiVersion": "coordination.k8s.io/v1",
        "metadata": metadata,
        "spec": spec,
    }


def _owned(node: str, owner: JsonObject | None) -> JsonObject:
    metadata = (owner or {}).get("metadata")
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    if not uid:
        return {}
    return {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]}


class NodeAgent:
    """Registers the Node and keeps it Ready while the link is up."""

    name = "edge.node"

    def __init__(self, machine: Machine, sender: Sender) -> None:
        self._machine = machine
        self._sender = sender
        self._link = asyncio.Event()
        self._changed = asyncio.Event()
        self._has_ended = False
        """The link went since the session began."""
        self._has_news = False
        self._lease: JsonObject | None = None
        self.is_registered = False

    def link_up(self, *, has_spool: bool) -> None:  # noqa: ARG002  every cloud has nodes
        self._link.set()

    def kick(self) -> None:
        """There is news of the Node: told at once, or with the next link."""
        self._has_news = True
        self._changed.set()

    def link_down(self) -> None:
        self._link.clear()
        self._has_ended = True
        self._changed.set()  # whoever rests in a session starts over with the next link
        self.is_registered = False

    async def run(self, ready: Callable[[], None]) -> None:
        ready()  # a node without cloud is not Ready there, and works here
        while True:
            await self._link.wait()
            self._changed.clear()
            self._has_ended = False
            try:
                await self._one_session()
            except Undeliverable as error:
                log.debug("the node cannot be kept Ready now", extra={"cause": error.message})
            except (GatewayError, OSError) as error:
                log.warning("the node cannot be registered", extra={"cause": str(error)})
            await self._rest(RETRY_SECONDS)

    async def _rest(self, seconds: float) -> None:
        """Sleep, unless the link changes or there is news."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _one_session(self) -> None:
        self._lease = await self._ask_lease(Operation.QUERY, None)
        await self._register()
        await self._renew()
        self.is_registered = True
        log.info("node registered", extra={"node": self._machine.name})
        time = asyncio.get_running_loop().time
        next_report, next_renewal = time() + REPORT_SECONDS, time() + RENEW_SECONDS
        while True:
            await self._rest(next_renewal - time())
            if self._has_ended:
                return
            self._changed.clear()
            if time() >= next_renewal:
                await self._renew()
                next_renewal = time() + RENEW_SECONDS
            if time() >= next_report or self._has_news or self._machine.has_news(now_ms()):
                self._has_news = False
                await self._patch_status()
                next_report = time() + REPORT_SECONDS

    async def _register(self) -> None:
        subject = Subject(None, "node", self._machine.name)
        node = self._machine.node(now_ms())
        answer = await self._sender.ask(ask(stamp(), subject, Operation.INSERT, node))
        result = read_result(answer.content)
        if isinstance(result, ApiFailure) and result.reason != "AlreadyExists":
            raise GatewayError(f"node insert: {result.code} {result.reason}: {result.message}")
        await self._patch_status()

    async def _patch_status(self) -> None:
        subject = Subject(None, "nodepatch", self._machine.name)
        patch = {"status": self._machine.status(now_ms())}
        text = msgspec.json.encode(patch).decode()
        answer = await self._sender.ask(ask(stamp(), subject, Operation.PATCH, text))
        result = read_result(answer.content)
        if isinstance(result, ApiFailure):
            raise GatewayError(f"node patch: {result.code} {result.reason}: {result.message}")
        self._machine.stored = result

    async def _renew(self) -> None:
        operation = Operation.INSERT if self._lease is None else Operation.UPDATE
        value = lease(self._machine.name, now_ms(), self._lease, self._machine.stored)
        self._lease = await self._ask_lease(operation, value)

    async def _ask_lease(self, operation: Operation, value: JsonObject | None) -> JsonObject | None:
        """Return the Lease as the cloud has it, None when it has none (then it is inserted)."""
        subject = Subject(LEASE_NAMESPACE, "lease", self._machine.name)
        answer = await self._sender.ask(ask(stamp(), subject, operation, value))
        result = read_result(answer.content)
        if not isinstance(result, ApiFailure):
            return result
        if result.reason in ("NotFound", "Conflict", "AlreadyExists"):
            return None if result.reason == "NotFound" else await self._query_lease()
        raise GatewayError(f"lease {operation}: {result.code} {result.reason}: {result.message}")

    async def _query_lease(self) -> JsonObject | None:
        subject = Subject(LEASE_NAMESPACE, "lease", self._machine.name)
        answer = await self._sender.ask(ask(stamp(), subject, Operation.QUERY, None))
        result = read_result(answer.content)
        return None if isinstance(result, ApiFailure) else result
